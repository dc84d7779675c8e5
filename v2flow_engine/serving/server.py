"""Everything that the routes of one app share, and the way from a job to an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request

from v2flow_engine.generation.model_files import model_digest
from v2flow_engine.serving.admission import Admission
from v2flow_engine.serving.answers import AnswerStyle
from v2flow_engine.serving.batches.runner import BatchRunner
from v2flow_engine.serving.batches.store import BatchStore
from v2flow_engine.serving.calls import Caller
from v2flow_engine.serving.connection import while_connected
from v2flow_engine.serving.errors import ApiError
from v2flow_engine.serving.file_store import FileStore
from v2flow_engine.serving.image_store import ImageStore
from v2flow_engine.serving.observed import ObservedBackend
from v2flow_engine.serving.studio import Picture, Studio
from v2flow_engine.serving.tracing import tracing_to

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.serving.backend import Backend
    from v2flow_engine.serving.jobs import Job
    from v2flow_engine.serving.metrics import Metrics
    from v2flow_engine.serving.settings import ServerSettings

IMAGE_ROUTE = "/v1/images/files/{name}"


class Server:
    """One model behind one app. Lives in the app's state."""

    def __init__(
        self, folder: ModelFolder, backend: Backend, settings: ServerSettings, metrics: Metrics
    ) -> None:
        self.folder, self.backend, self.settings, self.metrics = folder, backend, settings, metrics
        self.limits = settings.limits
        self.tracing = tracing_to(settings.traces_url)
        self.studio = Studio(folder, ObservedBackend(backend, metrics, self.tracing))
        self.admission = Admission(self.limits.pictures, self.limits.batch_pictures)
        self.store = ImageStore(
            Path(settings.image_dir), seconds=self.limits.url_seconds, max_bytes=self.limits.url_bytes
        )
        limits, home = self.limits, settings.data_path
        self.files = FileStore(
            home / "files", seconds=limits.file_seconds, max_bytes=limits.files_bytes, max_files=limits.files
        )
        self.batches = BatchStore(home / "batches", seconds=limits.file_seconds)
        self.runner = BatchRunner(self)
        metrics.pictures.labels("request").set_function(lambda: self.admission.under_way)
        metrics.pictures.labels("batch").set_function(lambda: self.admission.batch_under_way)

    @property
    def names(self) -> tuple[str, ...]:
        """Under which clients may ask for the model; the first is the one that answers carry."""
        return self.settings.names or (self.folder.config.name,)

    @cached_property
    def described(self) -> dict[str, Any]:
        """The model, for the metadata of its pictures."""
        return {"model": self.folder.config.name, "model_digest": model_digest(self.folder)}

    def check_model(self, name: str | None) -> None:
        """Raise `ApiError` for a model that is not served here."""
        if name is not None and name not in self.names:
            shown = name if len(name) <= 80 else f"{name[:77]}..."
            message = f"The model {shown!r} does not exist here; {', '.join(self.names)} does."
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_counts(self, prompt: str, n: int | None, prompt_is: str = "prompt") -> None:
        """Raise `ApiError` beyond this server's own limits; the protocol's have been checked.

        prompt_is: the parameter that the prompt came in.
        """
        if len(prompt) > self.limits.prompt_chars:
            message = (
                f"The prompt has {len(prompt)} characters; at most {self.limits.prompt_chars} are taken."
            )
            raise ApiError(400, message, param=prompt_is, code="string_above_max_length")
        if (n or 1) > self.limits.n:
            message = f"n must be at most {self.limits.n}, got {n}."
            raise ApiError(400, message, param="n", code="integer_above_max_value")

    def job_fields(self, body: Any) -> dict[str, Any]:
        """What a job is told beside its prompt, its pictures and the extensions."""
        own = {"n": body.n, "size": body.size, "quality": body.quality}
        return {**own, "guided": self.settings.guided}

    def style(self, body: Any, base_url: str) -> AnswerStyle:
        """How the pictures of a body are to look; raises `ApiError` for what does not go together."""

        def url_of(name: str) -> str:
            return base_url + IMAGE_ROUTE.format(name=name)

        return AnswerStyle.of(
            body, described=self.described, store=self.store, url_of=url_of, metrics=self.metrics
        )

    def pictures(self, request: Request, job: Job, num_partials: int = 0) -> AsyncIterator[Picture]:
        """A job's pictures, for as long as the caller waits and the deadline allows.

        Raises `ClientLeftError`, `TimeoutError`, and what `Studio` raises.
        """
        work = self.studio.pictures(job, num_partials)
        return while_connected(request.receive, work, self.limits.request_seconds)


def server_of(request: Request) -> Server:
    """The server of the app that a request came to; a FastAPI dependency too."""
    return request.app.state.server


def caller_of(request: Request) -> Caller:
    """Who asks: by the key that was let in, and the address that the request came to."""
    server = server_of(request)
    base = (server.settings.public_url or str(request.base_url)).rstrip("/")
    return Caller(getattr(request.state, "caller", None), base)
