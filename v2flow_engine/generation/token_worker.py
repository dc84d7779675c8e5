"""TokenRequests of many callers -> futures of visual_token_ids: a token generator in a thread of its own.

vLLM's continuous batching is what joins the callers. Knows nothing of text, codes or pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from v2flow_engine.engine_worker import EngineWorker, Ticket
from v2flow_engine.generation.request import TokenRequest
from v2flow_engine.generation.token_generator import TokenGenerator

MAX_IN_FLIGHT = 256


class TokenWorker(EngineWorker[TokenGenerator, TokenRequest, list[int]]):
    """See `EngineWorker`. A process runs one token generator at a time, so one of these as well.

    Args:
        start: makes the generator; called in the worker's thread, where vLLM then stays.
    """

    def __init__(
        self,
        start: Callable[[], TokenGenerator],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        super().__init__(start, max_in_flight=max_in_flight, name="token", on_death=on_death)

    def _add(self, engine: TokenGenerator, ticket: Ticket[TokenRequest, list[int]]) -> None:
        engine.check(ticket.request)
        engine.add(ticket.request, ticket.request_id)

    def _cancel(self, engine: TokenGenerator, request_id: str) -> None:
        engine.cancel(request_id)

    def _busy(self, engine: TokenGenerator) -> bool:
        return engine.busy

    def _step(self, engine: TokenGenerator) -> Sequence[tuple[str, list[int]]]:
        return engine.step()

    def _has_place(self, engine: TokenGenerator, request_id: str) -> bool:
        return engine.has_place(request_id)

    def _num_stepped(self, engine: TokenGenerator, finished: int) -> int:
        return min(engine.num_requests + finished, engine.max_num_seqs)

    def _num_tokens(self, request: TokenRequest, result: list[int]) -> int:
        forced = sum(token_id is not None for token_id in request.forced_visual_token_ids or ())
        return len(result) - forced

    def _shut_down(self, engine: TokenGenerator) -> None:
        engine.close()
