"""PERSCEN (Du et al. 2025, arXiv:2506.18382): personal graphs, scenario-aware preferences.

Letters: B queries, M distinct items, P (item, scenario) pairs, S scenarios, N nodes, D embedding
width, W width of the fusion, G width of the published vectors.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, UserBatch
from perscen.models.config import PerscenConfig
from perscen.models.embedding import count_values
from perscen.models.feature_graph import make_interaction
from perscen.models.field_towers import FieldTowers
from perscen.models.fusion import FUSIONS, Fused, fusion_width
from perscen.models.preference import (
    ConstantPreference,
    ItemPreference,
    Preference,
    ScenarioPreference,
)
from perscen.models.two_tower import EncodedUsers
from perscen.schema import Schema


@dataclass(frozen=True)
class Inspection:
    """What the model sees in some queries, for people to look at.

    Attributes:
        node_names: The user tower's nodes, in the order of the adjacency.
        adjacency_BNN: The refined graph of each layer; none without a graph.
        gates_BW: Activation in (0, 1) of each gated unit; none without them.
        alpha: Eq. (14), ``[B, 1]`` or ``[B, W]``: the weight of ``g`` against the preference; None
            without it.
        preference_BW: ``p_hat``, eq. (12).
        scenario_preference_BZ: ``p_s``, eq. (11), of each query's scenario.
        codes_B: Each query's code; None without a codebook.
    """

    node_names: tuple[str, ...]
    adjacency_BNN: tuple[Tensor, ...]
    gates_BW: tuple[Tensor, ...]
    alpha: Tensor | None
    preference_BW: Tensor
    scenario_preference_BZ: Tensor
    codes_B: Tensor | None


class Perscen(FieldTowers):
    """PERSCEN: both towers, every option and ablation of its settings.

    Raises:
        ConfigError: ``exclude_fields`` names no field, or leaves a tower without any.
    """

    family = "perscen"
    config: PerscenConfig

    def __init__(self, schema: Schema, config: PerscenConfig) -> None:
        super().__init__(
            schema,
            config,
            width=config.out_dim,
            reads_clicks=config.pref.sequence == "spec",
            scenario_node=config.user_scenario,
        )
        self.user_interaction = make_interaction(len(self.user_fields.names), config)
        self.item_interaction = make_interaction(len(self.item_fields.names), config)
        user_flat, item_flat = self.user_width, self.item_width
        user_width, item_width = fusion_width(user_flat, config), fusion_width(item_flat, config)
        num_scenarios = len(schema.scenarios)
        self.user_preference = ScenarioPreference(user_width, config, num_scenarios=num_scenarios)
        self.item_preference = (
            ItemPreference(item_width, config)
            if config.item_tower.scenario_aware
            else ConstantPreference(item_width)
        )
        self.user_fusion = FUSIONS[config.fusion](user_flat, user_width, config)
        self.item_fusion = FUSIONS[config.fusion](item_flat, item_width, config)

    @property
    def num_codes(self) -> int:
        """Size of the codebook; 0 without one."""
        reads_history = self.config.pref.sequence == "spec"
        return self.config.vq.codebook_size if reads_history else 0

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario, eqs. (2)-(15)."""
        preference = self._preference(users)
        vector_BG = self._fuse_users(self.user_nodes(users), preference).vector_PG
        encoded = self.encoded(vector_BG, users)
        return replace(encoded, auxiliary_loss=preference.loss, codes_B=preference.codes_B)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios; graph and messages once per item."""
        vector_PG = self._fuse_items(items, index_P, scenario_P).vector_PG
        return self.score.item(vector_PG, items.rows_B[index_P], scenario_P)

    def axis_labels(
        self, vocabularies: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[Sequence[Hashable], ...]]:
        """Return what rows stand for: of tables, and of what scenarios used of the codebook."""
        labels = super().axis_labels(vocabularies)
        for name in self.state_dict():
            if name.endswith(".used_SK"):
                labels[name] = (self.schema.scenarios,)
        return labels

    @torch.no_grad()
    def inspect(self, users: UserBatch) -> Inspection:
        """Return what the model sees in the queries."""
        preference, nodes_BND = self._preference(users), self.user_nodes(users)
        fused = self._fuse_users(nodes_BND, preference)
        return Inspection(
            node_names=self.user_fields.names,
            adjacency_BNN=tuple(self.user_interaction.adjacency(nodes_BND)),
            gates_BW=tuple(gate.sigmoid() for gate in fused.gates),
            alpha=fused.alpha,
            preference_BW=preference.vector_BW,
            scenario_preference_BZ=self.scenario_preferences()[users.scenario_B],
            codes_B=preference.codes_B,
        )

    @torch.no_grad()
    def scenario_preferences(self) -> Tensor:
        """Return ``p_s`` of every scenario, ``[S, Z]``, eq. (11)."""
        preference_SZ: Tensor = self.user_preference.encode_scenario(self.scenario_SD)
        return preference_SZ

    def _preference(self, users: UserBatch) -> Preference:
        own_BD = nonempty_B = None
        if self.user_preference.reads_history:
            own_BD = self.pool_items(users.spec_history)
            nonempty_B = count_values(users.spec_history) > 0
        preference: Preference = self.user_preference(
            own_BD, nonempty_B, self.scenario_SD, users.scenario_B
        )
        return preference

    def _fuse_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Fused:
        hidden = self._hidden(self.item_interaction, self.item_nodes(items))
        preference_SW = self.item_preference(self.scenario_SD, self.user_preference.encode_scenario)
        fused: Fused = self.item_fusion(hidden, preference_SW, index_P, scenario_P)
        return fused

    def _fuse_users(self, nodes_BND: Tensor, preference: Preference) -> Fused:
        fused: Fused = self.user_fusion(
            self._hidden(self.user_interaction, nodes_BND), preference.vector_BW
        )
        return fused

    def _hidden(self, interaction: nn.Module, nodes_BND: Tensor) -> list[Tensor]:
        """Return ``h(0) .. h(L)`` as the fusion reads them."""
        first, *later = interaction(self.drop(nodes_BND))
        return [first, *(self.drop(hidden) for hidden in later)]
