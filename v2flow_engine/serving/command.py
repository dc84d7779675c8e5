"""`v2flow serve`: options -> checked settings -> a server, on Ray Serve or in this process."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from v2flow_engine.errors import OutputError, RequestError
from v2flow_engine.files import check_folder
from v2flow_engine.precision import DTYPE_HELP, DTYPES

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import ModelFolder
    from v2flow_engine.serving.settings import ServerSettings

HELP = "Serve a model behind OpenAI's images API, on Ray Serve or (--single-process) without it."
KEYS_VARIABLE = "V2FLOW_API_KEYS"
MIN_KEY_LENGTH = 16
DAY, GIB = 86_400, 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `v2flow serve`."""
    from v2flow_engine.generation.pipeline import DEFAULT_MODEL
    from v2flow_engine.serving.tracing import BASE_VARIABLE

    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--single-process", action="store_true", help="without Ray: one process, one replica")
    parser.add_argument(
        "--served-name",
        action="append",
        metavar="NAME",
        help="clients may ask for this model; may be repeated",
    )
    callers = parser.add_argument_group("who may call")
    callers.add_argument(
        "--api-key", action="append", metavar="KEY", help="may be repeated; seen by other users"
    )
    callers.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"one key in each line; {KEYS_VARIABLE} has them too",
    )
    callers.add_argument(
        "--rate-limit", type=int, metavar="N", help="requests of each key and ingress in a minute"
    )
    callers.add_argument(
        "--cors-origin", action="append", metavar="ORIGIN", help="a web page that may call; may be repeated"
    )
    answers = parser.add_argument_group("answers")
    answers.add_argument("--public-url", metavar="URL", help="what URLs of pictures begin with")
    answers.add_argument("--url-minutes", type=float, default=60.0, help="a URL works so long (%(default)g)")
    answers.add_argument(
        "--image-dir", type=Path, metavar="DIR", help="keeps the pictures of URLs (default: a temporary one)"
    )
    batches = parser.add_argument_group("files and batches")
    batches.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="keeps both, and batches go on when the server comes again (default: in --image-dir)",
    )
    batches.add_argument("--file-days", type=float, default=30.0, help="a file is kept so long (%(default)g)")
    batches.add_argument("--file-gib", type=float, default=8.0, help="of all files (%(default)g)")
    batches.add_argument(
        "--batch-pictures", type=int, default=16, help="of batches under way at once (default: %(default)s)"
    )
    parser.add_argument(
        "--otlp-endpoint", metavar="URL", help=f"of an OpenTelemetry collector; {BASE_VARIABLE} names it too"
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--max-pictures", type=int, default=256, help="under way at once (default: %(default)s)"
    )
    load.add_argument("--deadline", type=float, default=300.0, metavar="S", help="of a request (%(default)g)")
    load.add_argument("--max-num-seqs", type=int, default=64, help="written at once (default: %(default)s)")
    load.add_argument("--drain", type=float, default=60.0, metavar="S", help="given at the end (%(default)g)")
    load.add_argument(
        "--unguided", action="store_true", help="half the work of the LLM; guidance_scale must be 1"
    )
    load.add_argument("--device", help="of the decoder; a GPU where there is one")
    load.add_argument("--dtype", choices=DTYPES, default="auto", help=DTYPE_HELP)
    ray = parser.add_argument_group("replicas on Ray, N or MIN-MAX")
    for stage in ("token", "decoder", "ingress"):
        ray.add_argument(f"--{stage}-replicas", default="1", metavar="R", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Returns 0 after a signal, 1 if an engine did not start. Raises `V2FlowError` for a mistake."""
    with _terminable(), _image_dir(args) as image_dir:
        folder, settings = check(args, image_dir)
        listener = _listen(args.host, args.port)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"v2flow: http://{shown}:{port} will serve {settings.model_dir}", file=sys.stderr, flush=True)
        if args.single_process:
            from v2flow_engine.serving.single_process import serve

            code, ended = serve(folder, settings, listener)
        else:
            from v2flow_engine.serving.cluster import serve as serve_on_ray

            listener.close()  # Ray's proxy binds it itself
            try:
                named = args.image_dir is not None
                code, ended = serve_on_ray(settings, host, port, shared_folder=named), True
            except SystemExit:
                # A signal before it is ready; Ray's own handler would end with the signal's number.
                code, ended = 0, True
    if not ended:
        sys.stdout.flush()
        os._exit(code)
    return code


def check(args: argparse.Namespace, image_dir: Path) -> tuple[ModelFolder, ServerSettings]:
    """Everything that can be found wrong before an engine starts. Raises `V2FlowError`."""
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.generation.limits import check_number, check_whole
    from v2flow_engine.generation.model_files import check_weight_files
    from v2flow_engine.generation.pipeline import default_device
    from v2flow_engine.serving.keys import digest
    from v2flow_engine.serving.settings import Limits, Replicas, ServerSettings
    from v2flow_engine.serving.tracing import traces_url, tracing_to

    check_whole("--port", args.port, 0, 65535)
    check_whole("--max-pictures", args.max_pictures, 10, 10**6)
    check_whole("--max-num-seqs", args.max_num_seqs, 1, 10**5)
    check_whole("--batch-pictures", args.batch_pictures, 1, 10**5)
    for name in ("deadline", "drain", "url_minutes", "file_days", "file_gib"):
        check_number(f"--{name.replace('_', '-')}", getattr(args, name), 0.1, 10**6)
    if args.rate_limit is not None:
        check_whole("--rate-limit", args.rate_limit, 1, 10**6)
    folder = open_model(args.model)
    check_weight_files(folder)
    limits = Limits(
        pictures=args.max_pictures,
        request_seconds=args.deadline,
        url_seconds=60 * args.url_minutes,
        file_seconds=DAY * args.file_days,
        files_bytes=round(GIB * args.file_gib),
        batch_pictures=args.batch_pictures,
    )
    settings = ServerSettings(
        model_dir=str(folder.path.resolve()),
        image_dir=str(image_dir),
        data_dir=str(args.data_dir.resolve()) if args.data_dir else None,
        names=tuple(args.served_name or ()),
        device=args.device or default_device(),
        dtype=args.dtype,
        max_num_seqs=args.max_num_seqs,
        guided=not args.unguided,
        key_digests=tuple(digest(key) for key in _keys(args)),
        requests_per_minute=args.rate_limit,
        cors_origins=tuple(args.cors_origin or ()),
        public_url=args.public_url,
        limits=limits,
        token_replicas=Replicas.parse(args.token_replicas),
        decoder_replicas=Replicas.parse(args.decoder_replicas),
        ingress_replicas=Replicas.parse(args.ingress_replicas),
        drain_seconds=args.drain,
        traces_url=traces_url(args.otlp_endpoint),
    )
    tracing_to(settings.traces_url)  # is OpenTelemetry here?
    return folder, settings


def _keys(args: argparse.Namespace) -> list[str]:
    """From options, file and environment. Raises `RequestError` for one that is too short to be a secret."""
    keys = [*(args.api_key or []), *os.environ.get(KEYS_VARIABLE, "").replace(",", " ").split()]
    if args.api_key_file is not None:
        try:
            keys += args.api_key_file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"{args.api_key_file}: cannot be read ({error})") from error
        if not keys:
            raise RequestError(f"{args.api_key_file}: holds no key")
    for key in keys:
        if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
            raise RequestError(f"an API key must be {MIN_KEY_LENGTH} or more ASCII characters without spaces")
    return keys


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OutputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Until the server catches it, SIGTERM ends the program as an exception does: temporary folders are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _image_dir(args: argparse.Namespace) -> Iterator[Path]:
    """The folder that was named, or one that is gone at the end. Raises `OutputError` for one that is none."""
    for named in (args.image_dir, args.data_dir):
        if named is not None:
            check_folder(named)
    if args.image_dir is not None:
        yield args.image_dir.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="v2flow-images-") as folder:
        yield Path(folder)
