"""M5: a scenario gate on the clicks, self-attention, and split experts.

Letters: B queries, T clicks of the longest history, L clicks a history has at most, S scenarios, D
embedding width, N user fields, W width of what the experts read, E shared experts, G width of both
towers' vectors, M distinct items, P (item, scenario) pairs.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, Packed, UserBatch
from perscen.data.splits import Splits
from perscen.models.attention import AttentionBlock, hide, right_aligned
from perscen.models.config import M5Config
from perscen.models.field_towers import FieldTowers
from perscen.models.gather import spread
from perscen.models.item_attributes import ItemAttributes
from perscen.models.layers import ScenarioMlp, mlp
from perscen.models.per_scenario import PerScenario, Routes
from perscen.models.ranks import gather_rows
from perscen.models.requirements import needs_clicks, needs_scenarios
from perscen.models.two_tower import EncodedUsers
from perscen.schema import Schema


class ScenarioGate(nn.Module):
    """Scales each coordinate by how much it matters in the scenario, between 0 and 2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.own = nn.Linear(dim, dim)
        self.scenario = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BTD: Tensor, scenario_SD: Tensor, scenario_B: Tensor) -> Tensor:
        """Return ``[B, T, D]``, the vectors scaled."""
        of_scenario_BD = spread(self.scenario(scenario_SD), scenario_B)
        return 2 * torch.sigmoid(self.own(x_BTD) + of_scenario_BD[:, None]) * x_BTD


class ClickReader(nn.Module):
    """A history as one vector: gate, a block of self-attention, pooling by the scenario."""

    def __init__(self, config: M5Config, *, longest: int) -> None:
        super().__init__()
        dim = config.emb.dim
        self.recency_LD = nn.Parameter(torch.empty(longest, dim))
        nn.init.normal_(self.recency_LD, std=config.emb.init_std)
        self.gate = ScenarioGate(dim)
        self.block = AttentionBlock(dim, config.heads)
        self.query = nn.Linear(dim, dim, bias=False)

    def forward(
        self, click_BTD: Tensor, real_BT: Tensor, scenario_SD: Tensor, scenario_B: Tensor
    ) -> Tensor:
        """Return ``[B, D]``; a history without clicks gives zero.

        Args:
            click_BTD: Clicks, the latest at the last place.
            real_BT: Which places hold one.
            scenario_SD: ``e_s`` of every scenario.
            scenario_B: Each row's scenario.
        """
        x_BTD = self.read(click_BTD, real_BT, scenario_SD, scenario_B)
        query_BD = spread(self.query(scenario_SD), scenario_B)
        logit_BT = (x_BTD @ query_BD[:, :, None]).squeeze(2) / math.sqrt(x_BTD.shape[2])
        weight_BT = hide(logit_BT, real_BT).softmax(dim=1) * real_BT
        pooled_BD: Tensor = (weight_BT[:, None] @ x_BTD).squeeze(1)
        return pooled_BD

    def read(
        self, click_BTD: Tensor, real_BT: Tensor, scenario_SD: Tensor, scenario_B: Tensor
    ) -> Tensor:
        """Return ``[B, T, D]``, the clicks as they know of each other, before they are pooled."""
        ago_T = torch.arange(real_BT.shape[1] - 1, -1, -1, device=real_BT.device)
        x_BTD = self.gate(click_BTD + self.recency_LD[ago_T], scenario_SD, scenario_B)
        read_BTD: Tensor = self.block(x_BTD, real_BT)
        return read_BTD


class OwnExpert(nn.Module):
    """What a scenario owns of the mixture: an expert, and the gate over it and the shared ones."""

    def __init__(self, wide: int, config: M5Config) -> None:
        super().__init__()
        self.expert = mlp(wide, *config.widths, dropout=config.dropout)
        self.gate = nn.Linear(wide, config.shared_experts + 1)

    def weights(self, x_BW: Tensor) -> Tensor:
        """Return the weight of each expert, ``[B, E + 1]``, the own one's last; they sum to 1."""
        weight_BE: Tensor = self.gate(x_BW).softmax(dim=1)
        return weight_BE

    def forward(self, x_BW: Tensor, shared_BEG: Tensor) -> Tensor:
        """Return the mixture of the scenario's rows."""
        all_BEG = torch.cat([shared_BEG, self.expert(x_BW)[:, None]], dim=1)
        return (self.weights(x_BW)[:, None] @ all_BEG).squeeze(1)


class Half(nn.Module):
    """A user side over clicks and fields with an item side of its own; M5 has one or two.

    Args:
        user_width: Width of the user's fields laid end to end.
        item_width: Width of what the item side reads.
        drop: Dropout on what both sides read.
    """

    def __init__(
        self, schema: Schema, config: M5Config, *, user_width: int, item_width: int, drop: nn.Module
    ) -> None:
        super().__init__()
        dim = config.emb.dim
        self._drop = drop
        self.clicks = ClickReader(config, longest=schema.max_seq_len)
        self.field_gate = ScenarioGate(dim)
        wide = user_width + 2 * dim
        self.shared_experts = nn.ModuleList(
            mlp(wide, *config.widths, dropout=config.dropout) for _ in range(config.shared_experts)
        )
        self.own_experts = PerScenario(OwnExpert(wide, config) for _ in schema.scenarios)
        self.item_tower = ScenarioMlp(
            item_width,
            dim if config.item_scenario else 0,
            (*config.item_widths, config.widths[-1]),
            config.dropout,
        )

    def encode_users(
        self,
        click_BTD: Tensor,
        real_BT: Tensor,
        field_BND: Tensor,
        scenario_SD: Tensor,
        scenario_B: Tensor,
    ) -> Tensor:
        """Return vectors ``[B, G]``; the experts read clicks, gated fields and the scenario."""
        clicks_BD = self.clicks(click_BTD, real_BT, scenario_SD, scenario_B)
        gated_BND = self.field_gate(field_BND, scenario_SD, scenario_B)
        of_scenario_BD = spread(scenario_SD, scenario_B)
        x_BW = self._drop(torch.cat([clicks_BD, gated_BND.flatten(1), of_scenario_BD], dim=1))
        shared_BEG = torch.stack([expert(x_BW) for expert in self.shared_experts], dim=1)
        routes = Routes(scenario_B, len(self.own_experts))
        return routes.join(
            [self.own_experts[s](x_BW[rows], shared_BEG[rows]) for s, rows in routes]
        )

    def encode_items(
        self, x_MW: Tensor, scenario_SD: Tensor | None, index_P: Tensor, scenario_P: Tensor
    ) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios; without ``item_scenario`` once each."""
        vector_PG: Tensor = self.item_tower(self._drop(x_MW), scenario_SD, index_P, scenario_P)
        return vector_PG


class M5(FieldTowers):
    """M5: a half that reads items by their ids, and on demand one that reads them by content.

    The halves' scores are added by a weight that the user's two vectors choose. It scales the
    user's vectors, so both halves laid end to end remain one inner product.

    Raises:
        ConfigError: The data have no clicks of users or the settings leave them out; the data have
            only one scenario, or not the content.
    """

    family = "m5"
    config: M5Config

    def __init__(self, schema: Schema, config: M5Config) -> None:
        needs_clicks(schema, config)
        needs_scenarios(schema, self.family)
        dim, width = config.emb.dim, config.widths[-1]
        super().__init__(
            schema,
            config,
            width=2 * width if config.content else width,
            reads_clicks=True,
            clicks_read_by=config.content,
            history_node=False,
            spec_node=config.use_spec_sequence,
        )
        self._longest = schema.max_seq_len

        def half(item_width: int) -> Half:
            return Half(
                schema, config, user_width=self.user_width, item_width=item_width, drop=self.drop
            )

        self.by_id = half(self.item_width)
        if config.content:
            self.catalogue = ItemAttributes(schema, config.content, config, setting="content")
            self.by_content = half(dim)
            self.weigh = nn.Linear(2 * width, 1)
        self.hidden_D: Tensor | None = None
        if config.masked_items.weight:
            self.hidden_D = nn.Parameter(torch.empty(dim))
            nn.init.normal_(self.hidden_D, std=config.emb.init_std)

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario."""
        rows_BT = right_aligned(users.history, longest=self._longest)
        rest = (rows_BT > 0, self.user_nodes(users), self.scenario_SD, users.scenario_B)
        vector_BG = self.by_id.encode_users(self.item_rows(rows_BT), *rest)
        if self.config.content:
            content_BG = self.by_content.encode_users(self.content(rows_BT), *rest)
            weight_B1 = torch.sigmoid(self.weigh(torch.cat([vector_BG, content_BG], dim=1)))
            vector_BG = torch.cat([weight_B1 * vector_BG, (1 - weight_B1) * content_BG], dim=1)
        encoded = self.encoded(vector_BG, users)
        if self.hidden_D is None or not self.training:
            return encoded
        masked = self.config.masked_items
        drawn_BT = torch.rand(rows_BT.shape, device=rows_BT.device) < masked.share
        loss = self.masked_items_loss(rows_BT, drawn_BT & (rows_BT > 0), users.scenario_B)
        return replace(encoded, auxiliary_loss=masked.weight * loss)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios; without ``item_scenario`` once each."""
        at = (self.scenario, index_P, scenario_P)
        vector_PG = self.by_id.encode_items(self.item_nodes(items).flatten(1), *at)
        if self.config.content:
            content_PG = self.by_content.encode_items(self.content(items.rows_B), *at)
            vector_PG = torch.cat([vector_PG, content_PG], dim=1)
        return self.score.item(vector_PG, items.rows_B[index_P], scenario_P)

    def masked_items_loss(self, rows_BT: Tensor, hidden_BT: Tensor, scenario_B: Tensor) -> Tensor:
        """Return how well the places of hidden clicks tell them from all that are hidden.

        A cross-entropy, the mean over the hidden clicks of the whole batch (of several ranks this
        one's part): the inner product of what stands at a place after the attention with the
        embedding of each item that is hidden anywhere in the batch.

        Args:
            rows_BT: Items clicked, the latest at the last place; 0 where there is none.
            hidden_BT: Which of them the attention does not see.
            scenario_B: Each row's scenario.
        """
        assert self.hidden_D is not None, "asked for by the settings alone"
        target_H = rows_BT[hidden_BT]
        everywhere = gather_rows(target_H)
        item_C = torch.unique(everywhere)
        click_BTD = self.item_rows(rows_BT)
        click_BTD = torch.where(hidden_BT[:, :, None], self.hidden_D, click_BTD)
        read_BTD = self.by_id.clicks.read(click_BTD, rows_BT > 0, self.scenario_SD, scenario_B)
        logit_HC = read_BTD[hidden_BT] @ self.item_rows(item_C).T
        place_H = torch.searchsorted(item_C, target_H)
        loss_H = torch.logsumexp(logit_HC, dim=1) - logit_HC.gather(1, place_H[:, None]).squeeze(1)
        return loss_H.sum() / max(len(everywhere), 1)

    def content(self, rows: Tensor) -> Tensor:
        """Return ``rows.shape + [D]``: the mean of the embeddings of each item's attributes."""
        distinct_M, place = torch.unique(rows, return_inverse=True)
        each = Packed(distinct_M, torch.arange(len(distinct_M) + 1, device=rows.device))
        parts = [
            self.pool_values(name, self.catalogue.of(name, each)) for name in self.config.content
        ]
        content_MD = torch.stack(parts).mean(dim=0)
        return spread(content_MD, place.flatten()).view(*rows.shape, self.config.emb.dim)

    def start_from(self, splits: Splits) -> None:
        """Take over the catalogue's attributes, and count what is popular."""
        super().start_from(splits)
        if self.config.content:
            self.catalogue.start_from(splits)
