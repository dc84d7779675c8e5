"""One batch from its input to its result files; may be broken off anywhere, and begun again by another process."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from v2flow_engine.serving.batches.journal import ERRORS, OUTPUT, Journal
from v2flow_engine.serving.batches.lines import Line, LineError, check_input, read_lines
from v2flow_engine.serving.batches.store import INPUT, Batch
from v2flow_engine.serving.batches.work import answer_of
from v2flow_engine.serving.calls import Caller
from v2flow_engine.serving.file_store import new_file_id
from v2flow_engine.serving.logs import current_request, log_fields, new_request_id

if TYPE_CHECKING:
    from v2flow_engine.serving.server import Server

logger = logging.getLogger(__name__)
CANCEL_SECONDS = 0.5  # how often is looked whether somebody wants it to end
GIVEN_UP = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was answered."),
    "expired": ("batch_expired", "The batch's completion window was over before this request was answered."),
}


class BatchRun:
    """Work on one batch.

    Of its requests, only as many are in memory as there are places in the stages, and one.
    """

    def __init__(self, server: Server, batch: Batch) -> None:
        self.server, self.batch = server, batch
        self.store, self.home = server.batches, server.batches.home(batch.id)
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Until the batch is over. Raises `OSError` if the folder cannot be written to: it may be tried again."""
        try:
            await self._run()
        except OSError:
            raise
        except Exception:
            logger.exception("batch %s failed", self.batch.id)
            await self._fail([LineError("internal_error", "The server had an error of its own.")])
            await self._run()
        batch = self.batch
        counts = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
        log_fields(logger, batch=batch.id, status=batch.status, **counts)

    async def _run(self) -> None:
        if self.batch.status == "validating":
            await self._validate()
        if self.batch.status in ("in_progress", "cancelling"):
            await self._answer_all()
        if self.batch.status == "finalizing":
            await asyncio.to_thread(self._finalize)

    async def _validate(self) -> None:
        """Look at the frames of all requests, and at the model."""
        batch, most = self.batch, self.server.limits.batch_lines
        check = asyncio.to_thread(check_input, self.home / INPUT, batch.endpoint, most)
        batch.total, errors = await check
        if errors:
            await self._fail(errors)
        else:
            await self._become("in_progress")

    async def _answer_all(self) -> None:
        """Ask the stages, until all is answered, or somebody cancels, or the time is over; then note what was not."""
        batch = self.batch
        if batch.model_digest != await asyncio.to_thread(lambda: self.server.described["model_digest"]):
            told = "The server has another model now than when the batch was made."
            await self._fail([LineError("model_mismatch", told)])
            return
        with await asyncio.to_thread(Journal, self.home) as journal:
            self._count(journal)
            work = asyncio.create_task(self._work(journal))
            cancelled = asyncio.create_task(self._until_cancelled())
            ending = "completed"
            try:
                left = max(0.0, batch.expires - time.time())
                await asyncio.wait({work, cancelled}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    ending = "cancelled" if cancelled.done() else "expired"
                    if ending == "cancelled":
                        cancelled.result()  # or the folder could not be read: nobody has cancelled anything
                        await self._become("cancelling")
            finally:
                for task in (work, cancelled):
                    task.cancel()
                await asyncio.wait({work, cancelled})
            if not work.cancelled():
                work.result()
            if ending in GIVEN_UP:
                await asyncio.to_thread(self._give_up, journal, ending)
        await self._end(ending)

    async def _work(self, journal: Journal) -> None:
        """Read on as places become free, so that a long input does not fill the memory."""
        lines = read_lines(self.home / INPUT, self.batch.endpoint, frozenset(journal.done))
        ahead = asyncio.Semaphore(self.server.limits.batch_pictures + 1)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await ahead.acquire()
                    line = await asyncio.to_thread(_next, lines)
                    if line is None:
                        break
                    task = group.create_task(self._answer(line, journal))
                    task.add_done_callback(lambda _: ahead.release())
        except* OSError as errors:
            raise errors.exceptions[0] from None

    async def _answer(self, line: Line, journal: Journal) -> None:
        batch, request_id = self.batch, new_request_id()
        caller = Caller(batch.owner, batch.base_url)
        current_request.set(request_id)  # of this task alone
        with self.server.tracing.request("batch request", {}, batch=batch.id, line=line.number):
            status, body = await answer_of(self.server, batch.endpoint, line.body, caller)
        self.server.metrics.batch_lines.labels(str(status)).inc()
        response = {"status_code": status, "request_id": request_id, "body": body}
        async with self._writing:
            # A thread goes on when nobody waits for it any more, so the lock must not be given up before it ends.
            await _shielded(asyncio.to_thread(self._write, journal, _record(line, response), status == 200))

    def _write(self, journal: Journal, record: dict[str, Any], well: bool) -> None:
        if well and journal.size + _length(record) > self.server.files.room():
            message = "The server has no room for more results."
            told = {"message": message, "type": "server_error", "param": None, "code": "storage_full"}
            record["response"] |= {"status_code": 507, "body": {"error": told}}
            well = False
        journal.write(record, well=well)
        self._count(journal)
        self.store.save(self.batch)

    def _give_up(self, journal: Journal, ending: str) -> None:
        code, message = GIVEN_UP[ending]
        for line in read_lines(self.home / INPUT, self.batch.endpoint, frozenset(journal.done)):
            journal.write(_record(line, None, {"code": code, "message": message}), well=False, sync=False)

    def _finalize(self) -> None:
        """Results become files; done again after a crash, it goes on where it was."""
        batch, files = self.batch, self.server.files
        for name, attribute in ((OUTPUT, "output_file_id"), (ERRORS, "error_file_id")):
            path, file_id = self.home / name, getattr(batch, attribute)
            if path.exists() and not path.stat().st_size:
                path.unlink()
            if path.exists() or files.has_bytes(file_id):
                shown = f"{batch.id}_{name}"
                files.adopt(path, file_id, shown, "batch_output", batch.owner, batch.output_seconds)
            else:
                setattr(batch, attribute, None)
        batch.become(batch.ending)
        self.store.save(batch)
        (self.home / INPUT).unlink(missing_ok=True)

    async def _fail(self, errors: list[LineError]) -> None:
        """What has been answered is kept nevertheless."""
        self.batch.errors = [dataclasses.asdict(error) for error in errors]
        await self._end("failed")

    async def _end(self, ending: str) -> None:
        batch = self.batch
        batch.ending = ending
        batch.output_file_id, batch.error_file_id = new_file_id(), new_file_id()
        await self._become("finalizing")

    async def _become(self, status: str) -> None:
        async with self._writing:
            self.batch.become(status)
            await _shielded(asyncio.to_thread(self.store.save, self.batch))

    def _count(self, journal: Journal) -> None:
        self.batch.completed, self.batch.failed = journal.completed, journal.failed

    async def _until_cancelled(self) -> None:
        while (wanted := await asyncio.to_thread(self.store.cancel_wanted, self.batch.id)) is None:
            await asyncio.sleep(CANCEL_SECONDS)
        self.batch.times.setdefault("cancelling", wanted)


def _next(lines: Iterator[Line]) -> Line | None:
    return next(lines, None)


def _record(
    line: Line, response: dict[str, Any] | None, error: dict[str, str] | None = None
) -> dict[str, Any]:
    """An output line in OpenAI's shape."""
    own = f"batch_req_{secrets.token_hex(16)}"
    return {"id": own, "custom_id": line.custom_id, "response": response, "error": error}


def _length(record: dict[str, Any]) -> int:
    """About so many bytes: pictures are nearly all of it."""
    return sum(len(picture.get("b64_json") or "") for picture in record["response"]["body"].get("data", ()))


async def _shielded(work: Any) -> None:
    """Wait for work to end even if the one who waits is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
