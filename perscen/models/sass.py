"""SASS: a network for all scenarios and one per scenario, joined by gates.

Letters: B queries or pairs, M distinct rows, S scenarios, W width of a layer.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.data.batches import ItemBatch, UserBatch
from perscen.data.splits import Splits
from perscen.models.config import SassConfig
from perscen.models.contrast import ScenarioContrast
from perscen.models.field_towers import FieldTowers
from perscen.models.gather import spread
from perscen.models.layers import mlp
from perscen.models.per_scenario import PerScenario, Routes
from perscen.models.requirements import needs_scenarios
from perscen.models.two_tower import EncodedUsers
from perscen.schema import Schema

BIAS_HIDDEN = 32
"""Hidden width of the network that reads the scenario's embedding."""


class SassLayer(nn.Module):
    """One scenario's state, and how much of the shared signal enters it."""

    def __init__(self, wide: int, width: int) -> None:
        super().__init__()
        self.state = nn.Linear(wide, width)
        self.gates = nn.Linear(2 * width, 2 * width)
        self.candidate = nn.Linear(2 * width, width)

    def forward(self, shared_BW: Tensor, state_BW: Tensor) -> Tensor:
        """Return the scenario's next state."""
        own_BW = F.relu(self.state(state_BW))
        adaptive_BW, update_BW = torch.sigmoid(
            self.gates(torch.cat([shared_BW, own_BW], dim=1))
        ).chunk(2, dim=1)
        candidate_BW = torch.tanh(
            self.candidate(torch.cat([adaptive_BW * shared_BW, own_BW], dim=1))
        )
        return torch.lerp(own_BW, candidate_BW, update_BW)


class SassBranch(nn.Module):
    """The layers that belong to one scenario of a tower."""

    def __init__(self, wide: int, config: SassConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SassLayer(a, b) for a, b in pairwise((wide, *config.widths)))

    def forward(self, shared: list[Tensor], x_BW: Tensor) -> Tensor:
        """Return the last state of one scenario's rows."""
        state_BW = x_BW
        for layer, shared_BW in zip(self.layers, shared, strict=True):
            state_BW = layer(shared_BW, state_BW)
        return state_BW


class SassTower(nn.Module):
    """One side of SASS; the two sides are alike."""

    def __init__(self, wide: int, num_scenarios: int, config: SassConfig) -> None:
        super().__init__()
        width, out = config.widths[-1], config.out_dim
        self.shared = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((wide, *config.widths)))
        self.branches = PerScenario(SassBranch(wide, config) for _ in range(num_scenarios))
        self.bias = mlp(config.emb.dim, BIAS_HIDDEN, out)
        self.state_out = nn.Linear(width, out)
        self.bias_out = nn.Linear(out, out, bias=False)

    def forward(
        self, x_MW: Tensor, scenario_SD: Tensor, index_B: Tensor | None, scenario_B: Tensor
    ) -> Tensor:
        """Return ``[B, G]``; the shared network runs once per row of ``x_MW``."""
        shared, signal = [], x_MW
        for layer in self.shared:
            signal = F.relu(layer(signal))
            shared.append(signal)
        routes = Routes(scenario_B, len(self.branches))
        states = []
        for scenario, rows in routes:
            at = rows if index_B is None else index_B[rows]
            read = [spread(values_MW, at) for values_MW in (*shared, x_MW)]
            states.append(self.branches[scenario](read[:-1], read[-1]))
        bias_SG = self.bias_out(self.bias(scenario_SD))
        vector_BG: Tensor = self.state_out(routes.join(states)) + spread(bias_SG, scenario_B)
        return vector_BG


class Sass(FieldTowers):
    """SASS: symmetric towers, pre-trained by telling users and items apart across scenarios.

    Raises:
        ConfigError: There is only one scenario.
    """

    family = "sass"
    config: SassConfig

    def __init__(self, schema: Schema, config: SassConfig) -> None:
        needs_scenarios(schema, self.family)
        super().__init__(schema, config, width=config.out_dim, spec_node=config.use_spec_sequence)
        num_scenarios = len(schema.scenarios)
        self.user_tower = SassTower(self.user_width, num_scenarios, config)
        self.item_tower = SassTower(self.item_width, num_scenarios, config)

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario."""
        vector_BG = self.represent_users(users)
        return self.encoded(vector_BG, users)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios; what is shared runs once each."""
        vector_PG = self.represent_items(items, index_P, scenario_P)
        return self.score.item(vector_PG, items.rows_B[index_P], scenario_P)

    def represent_users(self, users: UserBatch) -> Tensor:
        """Return the user tower's own vectors ``[B, G]``, which the score is not yet made of."""
        x_BW = self.drop(self.user_nodes(users)).flatten(1)
        vector_BG: Tensor = self.user_tower(x_BW, self.scenario_SD, None, users.scenario_B)
        return vector_BG

    def represent_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return the item tower's own vectors ``[P, G]``, which the score is not yet made of."""
        x_MW = self.drop(self.item_nodes(items)).flatten(1)
        vector_PG: Tensor = self.item_tower(x_MW, self.scenario_SD, index_P, scenario_P)
        return vector_PG

    def pretraining(
        self, splits: Splits, *, seed: int, device: torch.device
    ) -> ScenarioContrast | None:
        """Return stage one, unless the settings leave it out.

        Raises:
            ConfigError: Nobody and nothing was shown in two scenarios of the training window.
        """
        if not self.config.pretrain:
            return None
        return ScenarioContrast(self, splits, self.config, seed=seed, device=device)
