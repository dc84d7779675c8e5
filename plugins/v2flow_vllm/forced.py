"""Visual tokens that a request knows beforehand come out as given, at their positions (both model runners).

    extra_args["forced_visual_token_ids"], one entry per token to write: an id; None or -1 for a free position

At a forced position every other row of the logits becomes -inf, so that whatever vLLM samples there is that
token, and the model goes on from it in both streams. It takes its decode step all the same: vLLM has no way to
append several known tokens to a running request. Known tokens at the start belong into the prompt, which
prefill reads at once, and those at the end need not be written at all (`TokenGenerator` does both).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, process_dict_updates

from v2flow_vllm.logits_processor import INTERFACES
from v2flow_vllm.streams import vocabulary_of

if TYPE_CHECKING:
    from vllm import SamplingParams

FORCED_KEY = "forced_visual_token_ids"
FREE = -1
_log = logging.getLogger(__name__)


class ForcedTokensProcessor(*INTERFACES):  # type: ignore[misc]
    """Knows of each row's request which tokens are forced, and which token comes next."""

    def __init__(self, vllm_config: Any, device_or_states: Any, is_pin_memory: bool | None = None) -> None:
        vocabulary = vocabulary_of(vllm_config.model_config.hf_config)
        first = vocabulary.visual_offset
        self.visual_ids = range(first, first + vocabulary.codebook_size)
        self.pin_memory = bool(is_pin_memory)
        # V1, by row: the forced ids, and the list of the tokens written so far, which vLLM appends to.
        self.rows: dict[int, tuple[list[int], list[int]]] = {}
        # V2, by slot: the forced ids.
        self.slots: dict[int, list[int]] = {}
        # V1: (config, device, is_pin_memory); V2: (config, request states)
        self.states = device_or_states if is_pin_memory is None else None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse requests whose forced ids are no ids, or not one for each token, when they are admitted."""
        forced = (sampling_params.extra_args or {}).get(FORCED_KEY)
        if forced is None:
            return
        if not isinstance(forced, (list, tuple)) or len(forced) != sampling_params.max_tokens:
            got = f"{len(forced)} entries" if isinstance(forced, (list, tuple)) else repr(forced)
            raise ValueError(
                f"{FORCED_KEY} must have an id or None for each of the {sampling_params.max_tokens} tokens of "
                f"max_tokens, got {got}"
            )
        for each in forced:
            if each is not None and (isinstance(each, bool) or not isinstance(each, int)):
                raise ValueError(f"{FORCED_KEY} must be whole numbers or None, got {each!r}")

    def is_argmax_invariant(self) -> bool:
        """False: a forced token need not be the likeliest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """V1 interface: follow the batch."""
        process_dict_updates(self.rows, batch_update, self._row_state)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """V2 interface: a request takes a slot; True if it has forced tokens."""
        self.slots.pop(req_idx, None)
        if forced := self._forced_ids(sampling_params):
            self.slots[req_idx] = forced
        return bool(forced)

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """logits (R, V), changed in place where this step's token is forced. ctx: of the V2 runner."""
        if ctx is None:
            written = ((row, ids, len(output)) for row, (ids, output) in self.rows.items())
        elif self.slots:
            # A row's sequence, this step's tokens included, is as long as what the sampled token follows.
            prompt_lengths = self.states.prompt_len.np
            written = (
                (row, self.slots[slot], int(length) - int(prompt_lengths[slot]))
                for row, (slot, length) in enumerate(
                    zip(ctx.idx_mapping_np.tolist(), ctx.seq_lens_upper_bound_np, strict=False)
                )
                if slot in self.slots
            )
        else:
            return logits
        # Inside a prompt that is read in pieces the index is negative; what is sampled there is thrown away.
        now = {row: ids[index] for row, ids, index in written if 0 <= index < len(ids) and ids[index] != FREE}
        if now:
            force_rows(logits, now, pin_memory=self.pin_memory or logits.is_cuda)
        return logits

    def _row_state(
        self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
    ) -> tuple[list[int], list[int]] | None:
        forced = self._forced_ids(params)
        return (forced, output_ids) if forced else None

    def _forced_ids(self, params: SamplingParams | None) -> list[int]:
        """An id or FREE for each token of a request; nothing for one without forced tokens."""
        given: Sequence[int | None] = ((params.extra_args if params else None) or {}).get(FORCED_KEY) or ()
        foreign = [each for each in given if each not in (None, FREE) and each not in self.visual_ids]
        if foreign:  # the door does not know the vocabulary, and an error here would end the engine
            _log.warning("%s: %s is no visual token of this model; left free", FORCED_KEY, foreign[0])
        ids = [each if each in self.visual_ids else FREE for each in given]
        return ids if any(each != FREE for each in ids) else []


def force_rows(logits: torch.Tensor, token_ids: dict[int, int], *, pin_memory: bool = False) -> None:
    """Leave one finite logit in each row that is named: row -> token id. logits (R, V), in place."""
    index = torch.tensor([list(token_ids), list(token_ids.values())], pin_memory=pin_memory)
    rows, ids = index.to(logits.device, non_blocking=True)
    logits[rows] = -torch.inf
    logits[rows, ids] = 0.0
