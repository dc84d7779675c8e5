"""The networks of one visual tokenizer as the engine runs them, and what images of one grid share.

Knows nothing of requests.
"""

from __future__ import annotations

from collections import OrderedDict

import torch

from v2flow_engine.config import Grid
from v2flow_engine.decoding.engine.attention import choose_attention
from v2flow_engine.decoding.engine.grid_tables import GridTables
from v2flow_engine.decoding.engine.packed_transformer import PackedImage, PackedTransformer
from v2flow_engine.decoding.engine.row_functions import RowFunction, wrap_row_function
from v2flow_engine.decoding.engine.settings import EngineSettings
from v2flow_engine.decoding.engine.velocity import FusedVelocity
from v2flow_engine.models.visual_tokenizer import VisualTokenizer

KEPT_GRIDS = 64


class EngineModel:
    """Packed transformer and fused velocity net over one tokenizer's weights, in the tokenizer's dtype.

    Args:
        tokenizer: in eval mode, on its device.
    """

    @torch.inference_mode()
    def __init__(self, tokenizer: VisualTokenizer, settings: EngineSettings) -> None:
        self.tokenizer = tokenizer
        self.null_condition = tokenizer.null_condition.detach()
        self.device, self.dtype = self.null_condition.device, self.null_condition.dtype
        self.attention = choose_attention(settings.attention, self.device, self.dtype)

        def wrap(function: RowFunction) -> RowFunction:
            return wrap_row_function(function, settings, self.device)

        self.transformer = PackedTransformer(tokenizer.masked_transformer, self.attention, wrap)
        self.velocity = FusedVelocity(tokenizer.velocity, tokenizer.config.flow, wrap)
        self._tables: OrderedDict[Grid, GridTables] = OrderedDict()

    def tables(self, grid: Grid) -> GridTables:
        """What images of a grid share; the least recently used grids are forgotten."""
        if grid not in self._tables:
            self._tables[grid] = GridTables.of(self.tokenizer, grid)
            if len(self._tables) > KEPT_GRIDS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(grid)
        return self._tables[grid]

    def fill_null_features(self, tables: GridTables) -> None:
        """Compute the grid's features of nothing, unless they are there."""
        if tables.null_features is None:
            decoder_rows = torch.cat([tables.decoder_tokens, tables.decoder_positions])
            none = tables.null_rows[:0]
            image = PackedImage(tables.null_rows, none, decoder_rows, tables.output_positions)
            (tables.null_features,) = self.transformer([image])
