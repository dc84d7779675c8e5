"""Requests of many callers -> futures, served by one engine in a thread of its own that steps while it is busy.

    submit -> (thread: add to the engine, step, hand out what a step finished) -> future

The batching is the engine's; this holds no queue of its own beyond the moment until the thread looks. Knows nothing
of what is asked or made: the two stages subclass it.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import ref

from v2flow_engine.errors import EngineDeadError, QueueFullError, V2FlowError
from v2flow_engine.pace import Pace
from v2flow_engine.worker_stats import WorkerCounters, WorkerStats

Engine = TypeVar("Engine")
Request = TypeVar("Request")
Result = TypeVar("Result")
Called = TypeVar("Called")

MAX_DEATHS_IN_A_ROW = 3  # engines that died without finishing anything; then something else is wrong


@dataclass
class Ticket(Generic[Request, Result]):
    """One request under way. extra: what the subclass keeps with it. started: when its first step began."""

    request_id: str
    request: Request
    extra: Any
    future: Future[Result] = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None


class EngineWorker(ABC, Generic[Engine, Request, Result]):
    """A thread that owns an engine: it starts it, alone touches it, and starts a new one when it breaks.

    Futures may be awaited with `asyncio.wrap_future`, and cancelled at any time by any thread: the request then
    leaves the engine before its next step.

    Args:
        start: makes the engine; called in the thread, again after each death.
        max_in_flight: requests in the engine, running and waiting in it; more are refused.
        name: of the stage, for messages.
        on_death: called in the thread with what broke the engine, before anybody is told.
    """

    def __init__(
        self,
        start: Callable[[], Engine],
        *,
        max_in_flight: int,
        name: str,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.name, self.max_in_flight = name, max_in_flight
        self._start, self._on_death = start, on_death
        self._tickets: dict[str, Ticket[Request, Result]] = {}
        self._commands: deque[Callable[[Engine], None]] = deque()
        self._calls: set[Future[Any]] = set()
        self._wake = threading.Condition(threading.RLock())
        self._closing = self._draining = self._over = self._starting = False
        self._end: BaseException | None = None
        self._numbers = itertools.count()
        self._counters = WorkerCounters()
        self._unstarted: deque[Ticket[Request, Result]] = deque()  # in the engine, in order
        self._pace = Pace()
        self._thread = threading.Thread(target=self._live, name=f"{name}-worker", daemon=True)
        self._thread.start()

    @abstractmethod
    def _add(self, engine: Engine, ticket: Ticket[Request, Result]) -> None:
        """Queue a request in the engine; raises `V2FlowError` if it is the request's fault."""

    @abstractmethod
    def _cancel(self, engine: Engine, request_id: str) -> None:
        """Take a request that was added out of the engine."""

    @abstractmethod
    def _busy(self, engine: Engine) -> bool:
        """Whether a step would do something."""

    @abstractmethod
    def _step(self, engine: Engine) -> Sequence[tuple[str, Any]]:
        """One step; the ids that it finished, each with what `_hand_out` takes."""

    @abstractmethod
    def _has_place(self, engine: Engine, request_id: str) -> bool:
        """Whether a request that was added takes part in steps."""

    @abstractmethod
    def _num_stepped(self, engine: Engine, finished: int) -> int:
        """Requests that took part in the last step, which finished some."""

    def _hand_out(self, engine: Engine, finished: Sequence[tuple[str, Any]], begun: float) -> None:
        """Call `_resolve` for all that a step finished, now or later, in this thread or another one; or `_break`."""
        for request_id, result in finished:
            self._resolve(request_id, result, begun)

    def _num_tokens(self, request: Request, result: Result) -> int:
        """Tokens that were written for a result."""
        return 0

    def _after_step(self, engine: Engine, running: Iterable[Ticket[Request, Result]]) -> None:
        """What a stage does between steps for those that are under way."""

    def _shut_down(self, engine: Engine) -> None:
        """Free what the engine holds."""

    @property
    def stats(self) -> WorkerStats:
        """Counters as of now."""
        with self._wake:
            running = sum(ticket.started is not None for ticket in self._tickets.values())
            return self._counters.stats(len(self._tickets), running)

    @property
    def over(self) -> bool:
        """Whether it is closed or gave up: nothing will be served any more."""
        return self._over

    @property
    def given_up(self) -> BaseException | None:
        """Why no engine is started any more though nobody closes the worker; None while one serves or is made."""
        return self._end if self._over and not self._closing else None

    @property
    def starting(self) -> bool:
        """Whether an engine is being made, which nothing can interrupt."""
        return self._starting

    def submit(self, request: Request, extra: Any = None) -> Future[Result]:
        """Queue a request.

        Raises `QueueFullError` if too many are under way, `EngineDeadError` if the worker is closed or gave up.
        The future raises `V2FlowError` for what the engine cannot do, `EngineDeadError` if the engine broke.
        """
        with self._wake:
            self._raise_if_over()
            if len(self._tickets) >= self.max_in_flight:
                raise QueueFullError(
                    f"{self.name}: {len(self._tickets)} requests are under way, the most there may be",
                    retry_after=self._pace.seconds_until_room(),
                )
            ticket: Ticket[Request, Result] = Ticket(str(next(self._numbers)), request, extra)
            self._tickets[ticket.request_id] = ticket
            self._commands.append(lambda engine: self._admit(engine, ticket))
            self._wake.notify()
        # By its id: a future that held its ticket, which holds the future, would stay until a collection of garbage.
        ticket.future.add_done_callback(partial(self._leave, ticket.request_id))
        return ticket.future

    def call(self, function: Callable[[Engine], Called]) -> Future[Called]:
        """Run a function on the engine in its thread, between steps. Raises `EngineDeadError` as `submit` does."""
        future: Future[Called] = Future()

        def run(engine: Engine) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(engine))
            except Exception as error:
                future.set_exception(error)

        with self._wake:
            self._raise_if_over()
            self._calls.add(future)
            self._commands.append(run)
            self._wake.notify()
        future.add_done_callback(self._calls.discard)
        return future

    def close(self, *, drain: bool = False, timeout: float | None = None) -> None:
        """End the thread and the engine; safe to call twice.

        Args:
            drain: finish what is under way first. Otherwise its futures raise `EngineDeadError`.
            timeout: seconds to wait for the thread; None waits for as long as it takes.
        """
        with self._wake:
            self._closing, self._draining = True, drain and not self._over
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    # --- the thread ---

    def _live(self) -> None:
        deaths = 0
        while True:
            finished = self._counters.finished
            self._starting = True
            try:
                engine = self._start()
            except BaseException as error:
                told = " ".join(str(error).split())  # what validates configs speaks in paragraphs
                self._finish(error, f"did not start: {type(error).__name__}: {told}")
                return
            finally:
                self._starting = False
            cause = self._serve(engine)
            if cause is not None:
                self._counters.deaths += 1
                if self._on_death is not None:
                    self._on_death(cause)
                self._fail_all(f"broke: {type(cause).__name__}: {cause}", cause)
            try:
                self._shut_down(engine)
            except Exception as error:  # what is broken may not close
                cause = cause or error
            del engine
            if cause is not None:
                _forget_frames(cause)
                gc.collect()  # engines are full of cycles, and the next one may need the memory
            if self._closing:
                self._finish(None, "is closed")
                return
            deaths = 1 if self._counters.finished > finished else deaths + 1
            if deaths >= MAX_DEATHS_IN_A_ROW:
                self._finish(cause, f"broke {deaths} times in a row, at last: {cause}")
                return

    def _serve(self, engine: Engine) -> BaseException | None:
        """Until closed, then None; or until the engine breaks, then what broke it."""
        while True:
            with self._wake:
                while not (self._commands or self._done_serving or self._busy(engine)):
                    self._wake.wait()
                if self._done_serving:
                    return None
            try:
                self._turn(engine)
            except Exception as error:
                return error

    def _turn(self, engine: Engine) -> None:
        """What was asked meanwhile, then a step. Its variables end with it: they hold requests, and results."""
        with self._wake:
            commands, self._commands = self._commands, deque()
        for command in commands:
            command(engine)
        if not self._busy(engine):
            return
        begun = time.perf_counter()
        finished = self._step(engine)
        self._note_step(engine, begun, {request_id for request_id, _ in finished})
        self._hand_out(engine, finished, begun)
        with self._wake:
            running = list(self._tickets.values())
        self._after_step(engine, running)

    @property
    def _done_serving(self) -> bool:
        return self._closing and not (self._draining and self._tickets)

    def _break(self, engine: Engine, error: BaseException) -> None:
        """Another thread found the engine broken: end it, with all that is under way."""

        broken = ref(engine)

        def fail(now: Engine) -> None:
            if now is broken():  # and not its successor
                raise error

        with self._wake:
            self._commands.append(fail)
            self._wake.notify()

    def _ticket(self, request_id: str) -> Ticket[Request, Result] | None:
        with self._wake:
            return self._tickets.get(request_id)

    def _admit(self, engine: Engine, ticket: Ticket[Request, Result]) -> None:
        if ticket.future.cancelled():
            return
        try:
            self._add(engine, ticket)
        except V2FlowError as error:
            self._fail(ticket.request_id, error)
        else:
            self._unstarted.append(ticket)

    def _note_step(self, engine: Engine, begun: float, finished: set[str]) -> None:
        """Count a step, and note which requests it was the first one for."""
        stepped = self._num_stepped(engine, len(finished))
        self._counters.steps += 1
        self._counters.batch_sizes.observe(stepped)
        while self._unstarted:
            ticket = self._unstarted[0]
            if not ticket.future.done():
                if ticket.request_id not in finished and not self._has_place(engine, ticket.request_id):
                    return
                self._start_ticket(ticket, begun)
            self._unstarted.popleft()

    def _start_ticket(self, ticket: Ticket[Request, Result], begun: float) -> None:
        if ticket.started is None:
            ticket.started = begun
            self._counters.queue_seconds.observe(max(0.0, begun - ticket.submitted))

    def _resolve(self, request_id: str, result: Result, begun: float) -> None:
        """begun: of the step that finished the request."""
        with self._wake:
            ticket = self._claim(request_id)
            if ticket is None:
                return
            self._start_ticket(ticket, begun)  # it may have been its first step, too
            self._counters.compute_seconds.observe(time.perf_counter() - (ticket.started or begun))
            self._counters.tokens += self._num_tokens(ticket.request, result)
            self._wake.notify()  # the thread may be waiting for the last one, to close
        ticket.future.set_result(result)

    def _fail(self, request_id: str, error: BaseException) -> None:
        ticket = self._claim(request_id)
        if ticket is not None:
            ticket.future.set_exception(error)

    def _claim(self, request_id: str) -> Ticket[Request, Result] | None:
        """The ticket for the thread that ends it, no other gets it; None if it is gone or its caller has left."""
        with self._wake:
            ticket = self._tickets.pop(request_id, None)
            return ticket if ticket is not None and ticket.future.set_running_or_notify_cancel() else None

    def _leave(self, request_id: str, future: Future[Result]) -> None:
        """Free the place of a request whose future is done, by whichever thread did it."""
        with self._wake:
            self._tickets.pop(request_id, None)
            if future.cancelled():
                self._counters.cancelled += 1
                self._commands.append(lambda engine: self._cancel(engine, request_id))
                self._wake.notify()
            elif future.exception():
                self._counters.failed += 1
            else:
                self._counters.finished += 1
            self._pace.one_left(len(self._tickets) + 1)

    def _fail_all(self, what: str, cause: BaseException | None) -> None:
        with self._wake:
            request_ids, calls = list(self._tickets), list(self._calls)
            self._commands.clear()
        self._unstarted.clear()
        error = EngineDeadError(f"the {self.name} engine {what}")
        error.__cause__ = cause
        for request_id in request_ids:
            self._fail(request_id, error)
        for call in calls:
            if not call.done() and (call.running() or call.set_running_or_notify_cancel()):
                call.set_exception(error)

    def _finish(self, cause: BaseException | None, what: str) -> None:
        with self._wake:
            self._over, self._end = True, EngineDeadError(f"the {self.name} engine {what}")
        self._fail_all(what, cause)

    def _raise_if_over(self) -> None:
        if self._over or self._closing:
            raise EngineDeadError(str(self._end or f"the {self.name} engine is closing"))


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what an error's frames hold, above all the engine."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
