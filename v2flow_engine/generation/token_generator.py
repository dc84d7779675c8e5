"""TokenRequest -> visual_token_ids, by vLLM in this process: paged attention, continuous batching, guidance.

The one place in the package that runs vLLM. Knows nothing of text, codes or pixels.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from v2flow_engine.checkpoint import ModelFolder
from v2flow_engine.errors import EngineDeadError, ModelFolderError, RequestError
from v2flow_engine.generation.request import ForcedRuns, TokenRequest

if TYPE_CHECKING:
    from vllm import LLMEngine, SamplingParams

_running: weakref.ref[TokenGenerator] | None = None


class TokenGenerator:
    """A vLLM engine over MODEL/llm.

    A process runs one at a time, because vLLM keeps state per process; `close` frees it for the next.

    Args:
        folder: the opened model folder.
        dtype: "auto" (float32 on a CPU, bfloat16 elsewhere), "float32", "bfloat16" or "float16".
        max_num_seqs: images in flight at once; more wait inside the engine.
        kv_cache_gib: size of the KV cache; None takes what `max_num_seqs` images of full length need.
        guided: False allocates and computes the conditional stream alone; guidance_scale must then be 1.
        engine_args: further keyword arguments for vLLM's engine, which win over the plugin's.

    Raises:
        ModelFolderError: the folder's LLM is not one that the plugin serves.
        RuntimeError: this process already runs a token generator.
    """

    def __init__(
        self,
        folder: ModelFolder,
        *,
        dtype: str = "auto",
        max_num_seqs: int = 64,
        kv_cache_gib: float | None = None,
        guided: bool = True,
        engine_args: dict[str, Any] | None = None,
    ) -> None:
        self._engine: LLMEngine | None = None
        self._cause_of_death: BaseException | None = None
        _claim_process(self)
        self.guided = guided
        self._vocab_size = int(folder.llm_config["vocab_size"])
        first = folder.vocabulary.visual_offset
        self._visual_ids = range(first, first + folder.vocabulary.codebook_size)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._runs: dict[str, ForcedRuns] = {}  # of what the engine has
        self._finished: dict[str, list[int]] = {}  # had nothing to write
        with _engine_environment():
            kwargs = _engine_kwargs(folder, dtype, max_num_seqs, kv_cache_gib, guided) | (engine_args or {})
            self._engine = _start_engine(kwargs)
        self._max_model_len = int(kwargs["max_model_len"])
        self.max_num_seqs = int(kwargs["max_num_seqs"])
        self._forces = _can_force(self._engine)

    def generate(self, requests: Sequence[TokenRequest]) -> list[list[int]]:
        """visual_token_ids (offset included) of each request, in order.

        Raises:
            RequestError: a request asks for what this model cannot do; nothing is generated for any of them.
            EngineDeadError: the engine broke, now or before. No request is to blame.
        """
        for request in requests:
            self.check(request)
        with self._lock:
            ids: list[str] = []
            try:
                for request in requests:
                    ids.append(self.add(request))
            except BaseException as error:
                for request_id in ids:
                    self.cancel(request_id)
                if isinstance(error, RequestError):
                    raise RequestError(f"request {len(ids)}: {error}", error.param) from error
                raise
            written: dict[str, list[int]] = {}
            while self.busy:
                written |= dict(self.step())
            return [written[request_id] for request_id in ids]

    def check(self, request: TokenRequest) -> None:
        """Raise `RequestError` for what this model cannot do."""
        request.check(
            vocab_size=self._vocab_size,
            visual_ids=self._visual_ids,
            max_model_len=self._max_model_len,
            guided=self.guided,
        )
        if not self._forces and any(each is not None for each in request.split().between):
            raise RequestError(
                "forced tokens between free ones need logits processors, which this vLLM's V2 model runner has "
                "not: leave VLLM_USE_V2_MODEL_RUNNER unset"
            )

    def add(self, request: TokenRequest, request_id: str | None = None) -> str:
        """Queue a checked request and return its id, None for a new one. From here to `step`: one call at a time.

        Raises `RequestError` if vLLM does not take it, `EngineDeadError` as `generate` does.
        """
        from vllm.exceptions import VLLMValidationError

        engine = self._living_engine()
        runs = request.split()
        if request_id is None:
            request_id = f"image-{next(self._numbers)}"
        if not runs.between:
            self._finished[request_id] = runs.leading
            return request_id
        prompt = {"prompt_token_ids": [*request.prompt_token_ids, *runs.leading]}
        try:
            engine.add_request(request_id, prompt, _sampling_params(request, runs, self.guided))
        except (ValueError, VLLMValidationError) as error:
            raise RequestError(f"the token engine does not take this request: {error}") from error
        self._runs[request_id] = runs
        return request_id

    def cancel(self, request_id: str) -> None:
        """Forget a request, wherever it is; its place is free before the next step."""
        if self._runs.pop(request_id, None) is not None:
            self._living_engine().abort_request([request_id])
        self._finished.pop(request_id, None)

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return bool(self._runs or self._finished)

    @property
    def num_requests(self) -> int:
        """Images under way; those beyond `max_num_seqs` wait until others are finished."""
        return len(self._runs)

    def has_place(self, request_id: str) -> bool:
        """Whether an image takes part in steps.

        vLLM serves first come, first served, and its cache has room for all that may run.
        """
        return request_id in itertools.islice(self._runs, self.max_num_seqs)

    def step(self) -> list[tuple[str, list[int]]]:
        """One token for every image that has a place; ids and visual_token_ids of those that are finished."""
        engine = self._living_engine()
        finished, self._finished = list(self._finished.items()), {}
        try:
            outputs = engine.step() if self._runs else []
            for output in outputs:
                if output.finished and (runs := self._runs.pop(output.request_id, None)) is not None:
                    finished.append((output.request_id, _joined(runs, output.outputs[0].token_ids)))
        except Exception as error:
            self._cause_of_death = error
            raise EngineDeadError(f"the token engine broke: {type(error).__name__}: {error}") from error
        except BaseException as interruption:  # a step cut in half leaves the engine in an unknown state
            self._cause_of_death = interruption
            raise
        return finished

    def close(self) -> None:
        """Stop the engine and free its memory; safe to call twice."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        with _original_torch_threads():
            engine.engine_core.shutdown()
        del engine
        gc.collect()

    @property
    def num_kv_cache_blocks(self) -> int:
        """Blocks of the KV cache; a block holds the same tokens of every stream and layer."""
        return self._living_engine().vllm_config.cache_config.num_gpu_blocks

    def _living_engine(self) -> LLMEngine:
        if self._cause_of_death is not None:
            cause = self._cause_of_death
            reason = f"{type(cause).__name__}: {cause}"
            raise EngineDeadError(f"the token engine broke earlier: {reason}") from cause
        if self._engine is None:
            raise EngineDeadError("the token generator is closed")
        return self._engine

    def __enter__(self) -> TokenGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # At the interpreter's end what closing needs may be gone already, and so is soon the process.
        if getattr(self, "_engine", None) is not None and not sys.is_finalizing():
            self.close()


def _joined(runs: ForcedRuns, written: Sequence[int]) -> list[int]:
    """An image's tokens from what the engine wrote between the forced ones."""
    if len(written) != len(runs.between):
        raise RuntimeError(f"{len(written)} tokens came for {len(runs.between)}")
    return [*runs.leading, *written, *runs.trailing]


def _claim_process(generator: TokenGenerator) -> None:
    global _running
    gc.collect()  # an abandoned generator closes itself here
    other = _running() if _running is not None else None
    if other is not None and other._engine is not None:
        raise RuntimeError("this process already runs a token generator; close() it before starting another")
    _running = weakref.ref(generator)


def _engine_kwargs(
    folder: ModelFolder, dtype: str, max_num_seqs: int, kv_cache_gib: float | None, guided: bool
) -> dict[str, Any]:
    """Register the plugin's models in this process, and check that the folder's is one of them."""
    from vllm import ModelRegistry

    import v2flow_vllm

    v2flow_vllm.register(load=True)
    named = folder.llm_config.get("architectures") or []
    if not set(named) & set(v2flow_vllm.ARCHITECTURES) & set(ModelRegistry.get_supported_archs()):
        raise ModelFolderError(
            f"{folder.llm_dir / 'config.json'}: architectures {named} is none that can write visual tokens; "
            f"these are {sorted(v2flow_vllm.ARCHITECTURES)}"
        )
    return v2flow_vllm.engine_kwargs(
        folder.llm_dir, guided=guided, dtype=dtype, max_num_seqs=max_num_seqs, kv_cache_gib=kv_cache_gib
    )


def _start_engine(kwargs: dict[str, Any]) -> LLMEngine:
    from vllm import EngineArgs, LLMEngine

    return LLMEngine.from_engine_args(EngineArgs(**kwargs))


def _can_force(engine: LLMEngine) -> bool:
    from v2flow_vllm.hook import FORCED_PROCESSOR

    return FORCED_PROCESSOR in (engine.vllm_config.model_config.logits_processors or [])


def _sampling_params(request: TokenRequest, runs: ForcedRuns, guided: bool) -> SamplingParams:
    """For the positions between the leading and the trailing forced ones."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    extra_args: dict[str, Any] = {"guidance_scale": float(request.guidance_scale)} if guided else {}
    if guided and request.guidance_schedule != "constant":
        extra_args["guidance_schedule"] = request.guidance_schedule
        extra_args["guidance_first_position"] = len(runs.leading)
        extra_args["guidance_num_positions"] = request.num_visual_tokens
    if any(token_id is not None for token_id in runs.between):
        extra_args["forced_visual_token_ids"] = list(runs.between)
    return SamplingParams(
        max_tokens=len(runs.between),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        temperature=request.temperature,
        top_k=request.top_k,
        seed=request.seed,
        extra_args=extra_args or None,
    )


@contextmanager
def _engine_environment() -> Iterator[None]:
    """vLLM reads its environment when it is first imported and when an engine starts.

    In this process, no usage report, no log below ERROR unless V2FLOW_LOG=debug. The user's settings win.
    """
    quiet = os.environ.get("V2FLOW_LOG", "").lower() != "debug"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR" if quiet else "INFO")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    before = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        with warnings.catch_warnings(), _original_torch_threads():
            if quiet:
                warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
        else:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = before


@contextmanager
def _original_torch_threads() -> Iterator[None]:
    """Undo what vLLM's workers do to torch's thread settings, which the rest of this process shares."""
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != num_threads:
            set_num_threads(num_threads)
