"""M5: a scenario gate on the clicks, self-attention, and split experts (spec 3.6).

Letters: B queries, T clicks of the longest history, L clicks a history has at most, S scenarios, D
embedding width, W width of what the experts read, E shared experts, G width of both towers'
vectors, P (item, scenario) pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, UserBatch
from perscen.models.attention import AttentionBlock, hide, right_aligned
from perscen.models.config import M5Config
from perscen.models.field_towers import FieldTowers
from perscen.models.gather import spread
from perscen.models.layers import ScenarioMlp, mlp
from perscen.models.per_scenario import PerScenario, Routes
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
        ago_T = torch.arange(real_BT.shape[1] - 1, -1, -1, device=real_BT.device)
        x_BTD = self.gate(click_BTD + self.recency_LD[ago_T], scenario_SD, scenario_B)
        x_BTD = self.block(x_BTD, real_BT)
        query_BD = spread(self.query(scenario_SD), scenario_B)
        logit_BT = (x_BTD @ query_BD[:, :, None]).squeeze(2) / math.sqrt(x_BTD.shape[2])
        weight_BT = hide(logit_BT, real_BT).softmax(dim=1) * real_BT
        pooled_BD: Tensor = (weight_BT[:, None] @ x_BTD).squeeze(1)
        return pooled_BD


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


class M5(FieldTowers):
    """M5 over item ids, without its content half.

    Raises:
        ConfigError: The data have no clicks of users, or only one scenario.
    """

    family = "m5"
    config: M5Config

    def __init__(self, schema: Schema, config: M5Config) -> None:
        needs_clicks(schema, self.family)
        needs_scenarios(schema, self.family)
        dim = config.emb.dim
        super().__init__(
            schema,
            config,
            width=config.widths[-1],
            reads_clicks=True,
            history_node=False,
            spec_node=config.use_spec_sequence,
        )
        self._longest = schema.max_seq_len
        self.clicks = ClickReader(config, longest=schema.max_seq_len)
        self.field_gate = ScenarioGate(dim)
        wide = self.user_width + 2 * dim
        self.shared_experts = nn.ModuleList(
            mlp(wide, *config.widths, dropout=config.dropout) for _ in range(config.shared_experts)
        )
        self.own_experts = PerScenario(OwnExpert(wide, config) for _ in schema.scenarios)
        self.item_tower = ScenarioMlp(
            self.item_width,
            dim if config.item_scenario else 0,
            (*config.item_widths, config.widths[-1]),
            config.dropout,
        )

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario."""
        x_BW = self.drop(self._read(users))
        shared_BEG = torch.stack([expert(x_BW) for expert in self.shared_experts], dim=1)
        routes = Routes(users.scenario_B, len(self.own_experts))
        vector_BG = routes.join(
            [self.own_experts[s](x_BW[rows], shared_BEG[rows]) for s, rows in routes]
        )
        return self.encoded(vector_BG, users)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios; without ``item_scenario`` once each."""
        x_MW = self.drop(self.item_nodes(items)).flatten(1)
        vector_PG = self.item_tower(x_MW, self.scenario, index_P, scenario_P)
        return self.score.item(vector_PG, items.rows_B[index_P], scenario_P)

    def _read(self, users: UserBatch) -> Tensor:
        """Return ``[B, W]``, what the experts read: clicks, gated fields, the scenario."""
        scenario_SD, scenario_B = self.scenario_SD, users.scenario_B
        rows_BT = right_aligned(users.history, longest=self._longest)
        clicks_BD = self.clicks(self.item_rows(rows_BT), rows_BT > 0, scenario_SD, scenario_B)
        fields_BND = self.field_gate(self.user_nodes(users), scenario_SD, scenario_B)
        return torch.cat([clicks_BD, fields_BND.flatten(1), spread(scenario_SD, scenario_B)], dim=1)
