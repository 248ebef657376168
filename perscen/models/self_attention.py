"""A self-attention retriever: clicks, shown items and the scenario as tokens of one sequence.

No paper's model, but what one would reach for instead: it reads all that a sequence model may, and
is still two towers whose score is one inner product.

Letters: B queries, T tokens of the longest sequence, L items a history has at most, S scenarios, D
embedding width, W width of a token, M distinct items, P (item, scenario) pairs, G width of both
towers' vectors.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, Packed, UserBatch
from perscen.models.attention import AttentionBlock, right_aligned
from perscen.models.config import SelfAttentionConfig
from perscen.models.field_towers import SHOWN_NODE, FieldTowers
from perscen.models.gather import spread
from perscen.models.layers import ScenarioMlp
from perscen.models.requirements import needs_clicks
from perscen.models.two_tower import EncodedUsers
from perscen.schema import Schema

ROWS_AT_ONCE: Final = 128
"""Queries whose tokens are padded to the same number."""


class ItemTokens(nn.Module):
    """Items of a history as tokens, which know how many came after them."""

    def __init__(self, dim: int, width: int, *, longest: int, init_std: float) -> None:
        super().__init__()
        self.read = nn.Linear(dim, width)
        self.recency_LW = nn.Parameter(torch.empty(longest, width))
        nn.init.normal_(self.recency_LW, std=init_std)

    def forward(self, item_BTD: Tensor) -> Tensor:
        """Return ``[B, T, W]``; the latest item is at the last place."""
        num_places = item_BTD.shape[1]
        ago_T = torch.arange(num_places - 1, -1, -1, device=item_BTD.device)
        token_BTW: Tensor = self.read(item_BTD) + self.recency_LW[ago_T]
        return token_BTW


class SelfAttentive(FieldTowers):
    """Self-attention over a user's items, read out where the scenario stands.

    Raises:
        ConfigError: The data have no clicks of users, or the settings leave them out.
    """

    family = "self_attention"
    config: SelfAttentionConfig

    def __init__(self, schema: Schema, config: SelfAttentionConfig) -> None:
        needs_clicks(schema, config)
        reads_shown = config.shown_sequence and SHOWN_NODE not in config.exclude_fields
        shown_tokens = reads_shown and config.shown_tokens
        super().__init__(
            schema,
            config,
            width=config.widths[-1],
            reads_clicks=True,
            history_node=False,
            shown_node=not shown_tokens,
            spec_node=config.use_spec_sequence,
        )
        dim, width = config.emb.dim, config.token_width
        self._longest = schema.max_seq_len

        def tokens() -> ItemTokens:
            return ItemTokens(dim, width, longest=self._longest, init_std=config.emb.init_std)

        self.clicks = tokens()
        self.shown = tokens() if shown_tokens else None
        self.asked = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(
            AttentionBlock(width, config.heads, dropout=config.dropout)
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.user_tower = ScenarioMlp(width + self.user_width, dim, config.widths, config.dropout)
        self.item_tower = ScenarioMlp(
            self.item_width,
            dim if config.item_scenario else 0,
            (*config.item_widths, config.widths[-1]),
            config.dropout,
        )

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario."""
        fields_BW = self.user_nodes(users).flatten(1)
        read_BW = self.drop(torch.cat([self.read(users), fields_BW], dim=1))
        vector_BG = self.user_tower(read_BW, self.scenario, None, users.scenario_B)
        return self.encoded(vector_BG, users)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]``; without ``item_scenario`` once per item."""
        x_MW = self.drop(self.item_nodes(items)).flatten(1)
        vector_PG = self.item_tower(x_MW, self.scenario, index_P, scenario_P)
        return self.score.item(vector_PG, items.rows_B[index_P], scenario_P)

    def read(self, users: UserBatch) -> Tensor:
        """Return ``[B, W]``, what the scenario's token has gathered from a user's items."""
        num_B = users.history.offsets_B1.diff()
        if self.shown is not None:
            num_B = num_B + users.shown.offsets_B1.diff()
        # Rows of about the same number of items together: most are short, and padding costs as
        # much as tokens do.
        order_B = torch.argsort(num_B, stable=True)
        parts = [self._read(users, rows) for rows in torch.split(order_B, ROWS_AT_ONCE)]
        return torch.cat(parts)[torch.argsort(order_B)]

    def _read(self, users: UserBatch, rows_B: Tensor) -> Tensor:
        parts = [self._tokens(users.history.take(rows_B), self.clicks)]
        if self.shown is not None:
            parts.insert(0, self._tokens(users.shown.take(rows_B), self.shown))
        asked_B1W = spread(self.asked(self.scenario_SD), users.scenario_B[rows_B])[:, None]
        is_asked_B1 = torch.ones_like(asked_B1W[:, :, 0], dtype=torch.bool)
        token_BTW = torch.cat([*(tokens for tokens, _ in parts), asked_B1W], dim=1)
        real_BT = torch.cat([*(real for _, real in parts), is_asked_B1], dim=1)
        token_BTW = self.drop(token_BTW)
        *inner, last = self.blocks
        for block in inner:
            token_BTW = block(token_BTW, real_BT)
        # Nobody reads what the last block makes of any other place than the scenario's.
        gathered_BW: Tensor = self.norm(last(token_BTW, real_BT, num_last=1).squeeze(1))
        return gathered_BW

    def _tokens(self, items: Packed, tokens: ItemTokens) -> tuple[Tensor, Tensor]:
        rows_BT = right_aligned(items, longest=self._longest)
        return tokens(self.item_rows(rows_BT)), rows_BT > 0
