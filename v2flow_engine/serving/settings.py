"""What a server is told when it starts: the model, its limits, who may call. Plain data that every process can load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from v2flow_engine.errors import RequestError

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All are enforced before any work.

    prompt_chars: of a prompt, before the model's own limit in tokens. n: pictures of one request.
    body_bytes: of a JSON body; upload_body_bytes: of one with pictures in it. upload_bytes, upload_pixels: of one
    uploaded picture. body_seconds: a body must have arrived after so long; header_seconds: likewise a request's head.
    send_seconds: an event of a stream must have been taken after so long.
    pictures: under way at once in this process, waiting ones included; more are told to come again.
    request_seconds: a request must be answered after so long, or it is given up.
    url_seconds: an answer's URL works for so long. url_bytes: of all pictures kept for URLs; the oldest go first.
    file_bytes: of one uploaded file. files, files_bytes: of all, those that batches make included; what is beyond is
    refused. file_seconds: a file, and what is known of a batch, is kept so long at most.
    batches: that are not over at once; batch_lines: of each. batch_pictures: of all batches that are in the stages at
    once, beside `pictures`; see `Admission`.
    """

    prompt_chars: int = 32_000
    n: int = 10
    body_bytes: int = MIB
    upload_body_bytes: int = 64 * MIB
    upload_bytes: int = 20 * MIB
    upload_pixels: int = 32_000_000
    header_seconds: float = 15.0
    body_seconds: float = 60.0
    send_seconds: float = 60.0
    pictures: int = 256
    request_seconds: float = 300.0
    url_seconds: float = 3600.0
    url_bytes: int = 1024 * MIB
    file_bytes: int = 64 * MIB
    files: int = 10_000
    files_bytes: int = 8192 * MIB
    file_seconds: float = 30 * 86_400.0
    batches: int = 100
    batch_lines: int = 50_000
    batch_pictures: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise RequestError(f"the limit {name} must be above 0, got {value}", name)


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """Of one stage on Ray: at least and at most so many; the load decides between them."""

    least: int = 1
    most: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise RequestError(f"replicas must be MIN or MIN-MAX with 1 <= MIN <= MAX, got {self}")

    @classmethod
    def parse(cls, text: str) -> Replicas:
        """ "2" or "1-4". Raises `RequestError` for anything else."""
        least, _, most = text.partition("-")
        if not (least.isdecimal() and (most or least).isdecimal()):
            raise RequestError(f"replicas must look like 2 or 1-4, got {text!r}")
        return cls(least=int(least), most=int(most or least))

    def __str__(self) -> str:
        return f"{self.least}-{self.most}"


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """model_dir: absolute. names: that clients may ask for, the first is the one shown; without any, the model's own.

    image_dir: where pictures for URLs are kept; data_dir: where files and batches are, None for a folder in
    image_dir. Every ingress must see the same ones.
    key_digests: SHA-256 in hex of the keys that may call; none lets everybody in. requests_per_minute: of each key
    (or client address without keys); None is without limit. cors_origins: web pages that may call from a browser.
    public_url: what URLs in answers begin with; None takes it from the request.
    device: of the decoder. dtype: of both stages, see `precision`.
    max_num_seqs: pictures that a token engine writes at once. guided: False halves its work; guidance_scale is 1 then.
    drain_seconds: what is under way at the end gets so long. traces_url: where spans are sent, None for nowhere.
    """

    model_dir: str
    image_dir: str
    data_dir: str | None = None
    names: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: str = "auto"
    max_num_seqs: int = 64
    guided: bool = True
    key_digests: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    cors_origins: tuple[str, ...] = ()
    public_url: str | None = None
    limits: Limits = field(default_factory=Limits)
    token_replicas: Replicas = field(default_factory=Replicas)
    decoder_replicas: Replicas = field(default_factory=Replicas)
    ingress_replicas: Replicas = field(default_factory=Replicas)
    drain_seconds: float = 60.0
    traces_url: str | None = None

    @property
    def data_path(self) -> Path:
        """Where files and batches are."""
        return Path(self.data_dir) if self.data_dir else Path(self.image_dir) / "data"
