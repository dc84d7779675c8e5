"""One image under way: its schedule, what it knows, and what the next round needs of it.

All rows of positions stand in the order in which they are drawn, those known from the start first, so that what is
known, what this round draws and what is left are slices. Knows nothing of other images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from v2flow_engine.decoding.engine.grid_tables import GridTables
from v2flow_engine.decoding.engine.integration import FlowPart
from v2flow_engine.decoding.engine.packed_transformer import PackedImage, PackedTransformer
from v2flow_engine.decoding.engine.upload import upload
from v2flow_engine.decoding.request import DecodeRequest, ImageNoise
from v2flow_engine.decoding.schedule import guidance_scales, mask_lengths
from v2flow_engine.flow.linear_updates import LinearUpdates, linear_updates
from v2flow_engine.models.visual_tokenizer import VisualTokenizer


@dataclass(frozen=True)
class ImageSchedule:
    """known: positions known before each round and after the last one, ascending to N; scales: of each round.

    updates: the solver's, None for dopri5. own_unconditional: guidance needs a second pass of the transformer.
    """

    known: tuple[int, ...]
    scales: tuple[float, ...]
    updates: LinearUpdates | None
    own_unconditional: bool

    @classmethod
    def of(
        cls, tokenizer: VisualTokenizer, request: DecodeRequest, num_positions: int, num_masked: int
    ) -> ImageSchedule:
        """What the plain sampler does for this request; with nothing to draw there are no rounds."""
        flow = tokenizer.config.flow
        schedule = request.guidance_schedule or flow.guidance_schedule
        lengths, scales = [], []
        if num_masked:
            lengths = mask_lengths(num_masked, request.rounds)
            scales = guidance_scales(
                num_positions, request.rounds, request.guidance_scale, schedule, num_masked
            )
        return cls(
            tuple(num_positions - length for length in (num_masked, *lengths)),
            tuple(scales),
            linear_updates(request.solver or flow.solver, request.flow_steps, flow.shift),
            flow.unconditional == "transformer",
        )

    @property
    def passes(self) -> int:
        """Passes of the transformer that the costliest round needs, 1 or 2."""
        return 1 + (self.own_unconditional and any(scale != 1.0 for scale in self.scales))


class ImageState:
    """Everything of one image on the device.

    Args:
        conditions: (S, D), the projector's output for the image's codes.
        own: order and noise, on the CPU.
    """

    def __init__(
        self,
        request_id: str,
        request: DecodeRequest,
        schedule: ImageSchedule,
        tables: GridTables,
        conditions: torch.Tensor,
        own: ImageNoise,
        tokenizer: VisualTokenizer,
    ) -> None:
        self.request_id, self.request, self.schedule, self.tables = request_id, request, schedule, tables
        self.tokenizer, self.device = tokenizer, conditions.device
        self.round = 0
        positions = drawing_order(own.order, request.redraw)
        self.positions = upload(positions, self.device)
        self.noise = upload(own.noise[positions], self.device)
        self.latents = torch.zeros_like(self.noise)  # (N, C p^2), float32
        net, num_tokens = tokenizer.masked_transformer, tables.num_visual_tokens
        self.encoder_rows = conditions.new_empty(num_tokens + tables.num_positions, conditions.shape[-1])
        self.encoder_rows[:num_tokens] = net.input_norm(conditions + tables.encoder_tokens)
        self.decoder_rows = torch.cat([tables.decoder_tokens, tables.decoder_positions[self.positions]])

    def start(self, transformer: PackedTransformer) -> None:
        """Take in what is known from the start."""
        if not self.num_known:
            return
        given = upload(self.request.known_latents.float(), self.device)[None]
        latents = self.tokenizer.patchify(given)[0][self.positions[: self.num_known]]
        rows = transformer.latent_rows(latents, self._encoder_positions(0, self.num_known))
        self._write(0, latents, rows)

    @property
    def num_known(self) -> int:
        """Positions known now."""
        return self.schedule.known[self.round]

    @property
    def num_chosen(self) -> int:
        """Positions that the next round draws."""
        return self.schedule.known[self.round + 1] - self.num_known

    @property
    def done(self) -> bool:
        """Every position is known."""
        return self.round == len(self.schedule.scales)

    @property
    def scale(self) -> float:
        """Of the next round's guidance."""
        return self.schedule.scales[self.round]

    def packed(self, unconditional: bool = False, num_chosen: int | None = None) -> PackedImage:
        """This image for the transformer, under its own conditions or the null ones."""
        num_tokens, first = self.tables.num_visual_tokens, self.num_known
        chosen = slice(first, first + (self.num_chosen if num_chosen is None else num_chosen))
        return PackedImage(
            self.tables.null_rows if unconditional else self.encoder_rows[:num_tokens],
            self.encoder_rows[num_tokens : num_tokens + first],
            self.decoder_rows,
            self.tables.output_positions[self.positions[chosen]],
        )

    def null_features(self) -> torch.Tensor:
        """The grid's features of nothing, for this round's positions; right while nothing is known."""
        return self.tables.null_features[self.positions[: self.num_chosen]]

    def flow_part(
        self, features: torch.Tensor, scale: float | None, unconditional: torch.Tensor | None
    ) -> FlowPart:
        """This round's positions for the solver."""
        noise = self.noise[self.num_known : self.num_known + self.num_chosen]
        return FlowPart(noise, features, self.schedule.updates, scale, unconditional)

    def encoder_positions_of_round(self) -> torch.Tensor:
        """The encoder's embeddings (M, D) of this round's positions."""
        return self._encoder_positions(self.num_known, self.num_known + self.num_chosen)

    def finish_round(self, latents: torch.Tensor, encoder_rows: torch.Tensor) -> None:
        """This round's latents (M, C p^2) are known, and the encoder's rows (M, D) of them."""
        self._write(self.num_known, latents, encoder_rows)
        self.round += 1

    def image_latents(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """latents (C, h, w), float32, of `self.latents` or of other rows (N, C p^2) in the order of drawing."""
        rows = self.latents if rows is None else rows
        raster = torch.empty_like(rows).index_copy_(0, self.positions, rows)
        return self.tokenizer.unpatchify(raster[None], self.tables.grid)[0]

    def _encoder_positions(self, start: int, end: int) -> torch.Tensor:
        return self.tables.encoder_positions[self.positions[start:end]]

    def _write(self, first: int, latents: torch.Tensor, encoder_rows: torch.Tensor) -> None:
        count, start = len(latents), self.tables.num_visual_tokens + first
        self.latents[first : first + count] = latents
        self.encoder_rows[start : start + count] = encoder_rows


def drawing_order(order: torch.Tensor, redraw: torch.Tensor | None) -> torch.Tensor:
    """order (N,) as the plain sampler takes it -> positions as they become known, (N,).

    Those outside `redraw` come first; then the last ones of `order`, since `order[:m]` are still masked when m are.
    """
    drawn = order.flip(0)
    if redraw is None:
        return drawn
    masked = redraw.cpu()[drawn]
    return torch.cat([drawn[~masked], drawn[masked]])
