"""ADIN: shared and scenario-specific networks over domain-normalised fields.

Letters: B queries or pairs, S scenarios, N fields, D embedding width, W width of the rows (N D), H
width of the shared and the specific layer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.data.batches import ItemBatch, UserBatch
from perscen.models.config import AdinConfig
from perscen.models.domain_norm import DomainNorm
from perscen.models.field_towers import FieldTowers
from perscen.models.gather import spread
from perscen.models.layers import mlp
from perscen.models.per_scenario import PerScenario, Routes
from perscen.models.requirements import needs_scenarios
from perscen.models.two_tower import EncodedUsers
from perscen.schema import Schema

_SCALES: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "double_sigmoid": lambda logits: 2 * torch.sigmoid(logits),
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "none": lambda logits: logits,
}


class AdinBranch(nn.Module):
    """What belongs to one scenario of a tower: field weights, its own layer, fusion and output."""

    def __init__(self, num_fields: int, config: AdinConfig) -> None:
        super().__init__()
        flat, hidden = num_fields * config.emb.dim, config.hidden
        self._fusion, self._scale = config.fusion, _SCALES[config.sea_scale]
        self._num_fields, self._dim = num_fields, config.emb.dim
        self.field_weights = (
            mlp(num_fields, -(-num_fields // 2), num_fields) if config.sea else None
        )
        self.specific = nn.Linear(flat, hidden)
        self.gates = nn.Linear(flat, 2 * hidden, bias=False)
        fused = 3 * hidden if config.fusion == "concat" else hidden
        self.forward_network = mlp(fused, *config.widths, dropout=config.dropout)

    def forward(self, x_BW: Tensor, shared: nn.Linear) -> Tensor:
        """Return the vectors of one scenario's rows."""
        if self.field_weights is not None:
            field_BND = x_BW.view(len(x_BW), self._num_fields, self._dim)
            weight_BN = self._scale(self.field_weights(field_BND.mean(dim=2)))
            x_BW = (weight_BN[:, :, None] * field_BND).flatten(1)
        gate_BH, shared_gate_BH = torch.sigmoid(self.gates(x_BW)).chunk(2, dim=1)
        own_BH = gate_BH * F.relu(self.specific(x_BW))
        shared_BH = shared_gate_BH * F.relu(shared(x_BW))
        both = (own_BH, own_BH * shared_BH, shared_BH)
        fused = torch.cat(both, dim=1) if self._fusion == "concat" else torch.stack(both).sum(dim=0)
        vector_BG: Tensor = self.forward_network(fused)
        return vector_BG


class AdinTower(nn.Module):
    """One side of ADIN; the two sides are alike."""

    def __init__(self, num_fields: int, num_scenarios: int, config: AdinConfig) -> None:
        super().__init__()
        flat = num_fields * config.emb.dim
        self.norm = DomainNorm(num_scenarios, flat) if config.dsbn else None
        self.shared = nn.Linear(flat, config.hidden)
        self.branches = PerScenario(AdinBranch(num_fields, config) for _ in range(num_scenarios))

    def forward(self, x_BW: Tensor, scenario_B: Tensor, count_B: Tensor | None) -> Tensor:
        """Return the vectors of rows, each by its scenario's branch alone."""
        if self.norm is not None:
            x_BW = self.norm(x_BW, scenario_B, count_B)
        routes = Routes(scenario_B, len(self.branches))
        return routes.join([self.branches[s](x_BW[rows], self.shared) for s, rows in routes])


class Adin(FieldTowers):
    """ADIN without self-training: the scenario chooses the networks and is no field itself.

    Raises:
        ConfigError: There is only one scenario.
    """

    family = "adin"
    config: AdinConfig

    def __init__(self, schema: Schema, config: AdinConfig) -> None:
        needs_scenarios(schema, self.family)
        super().__init__(
            schema,
            config,
            width=config.widths[-1],
            reads_scenario=False,
            spec_node=config.use_spec_sequence,
        )
        num_scenarios = len(schema.scenarios)
        self.user_tower = AdinTower(len(self.user_fields.names), num_scenarios, config)
        self.item_tower = AdinTower(len(self.item_fields.names), num_scenarios, config)

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario."""
        x_BW = self.drop(self.user_nodes(users)).flatten(1)
        vector_BG = self.user_tower(x_BW, users.scenario_B, None)
        return self.encoded(vector_BG, users)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios, every pair counted once."""
        return self._encode_items(items, index_P, scenario_P, None)

    def encode_items_counted(
        self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor, count_P: Tensor
    ) -> Tensor:
        """Return vectors ``[P, G]``; the statistics count each pair as often as it occurs."""
        return self._encode_items(items, index_P, scenario_P, count_P)

    def axis_labels(
        self, vocabularies: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[Sequence[Hashable], ...]]:
        """Return what rows of tables and statistics stand for."""
        labels = super().axis_labels(vocabularies)
        for name in self.state_dict():
            if ".norm." in name:
                labels[name] = (self.schema.scenarios,)
        return labels

    def _encode_items(
        self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor, count_P: Tensor | None
    ) -> Tensor:
        x_MW = self.drop(self.item_nodes(items)).flatten(1)
        vector_PG = self.item_tower(spread(x_MW, index_P), scenario_P, count_P)
        return self.score.item(vector_PG, items.rows_B[index_P], scenario_P)
