"""PERSCEN (Du et al. 2025, arXiv:2506.18382): personal graphs, scenario-aware preferences.

Letters: B queries, M distinct items, P (item, scenario) pairs, S scenarios, N nodes, D embedding
width, W width of the fusion, G width of the published vectors.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, Packed, UserBatch
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.config import PerscenConfig
from perscen.models.embedding import TowerEmbedding, count_values
from perscen.models.feature_graph import make_interaction
from perscen.models.fusion import FUSIONS, Fused, fusion_width
from perscen.models.popularity import log_popularity
from perscen.models.preference import (
    ConstantPreference,
    ItemPreference,
    Preference,
    ScenarioPreference,
)
from perscen.models.score import Score
from perscen.models.two_tower import EncodedUsers, TwoTower
from perscen.schema import MISSING_ROW, UNKNOWN_ROW, Field, Schema

ITEM_ID = "item_id"
HISTORY_NODE = "history"
SHOWN_NODE = "shown"


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


class Perscen(TwoTower):
    """PERSCEN: both towers, every option and ablation of its settings.

    Raises:
        ConfigError: ``exclude_fields`` names no field, or leaves a tower without any.
    """

    family = "perscen"

    def __init__(self, schema: Schema, config: PerscenConfig) -> None:
        super().__init__(schema, config)
        _check_exclusions(schema, config)
        self._sequences = _sequence_nodes(schema, config)
        reads_clicks = bool(self._sequences) or config.pref.sequence == "spec"
        has_id_node = any(f.name == ITEM_ID for f in schema.item.categorical) and (
            ITEM_ID not in config.exclude_fields
        )
        item_ids = Field(name=ITEM_ID, num_rows=schema.num_item_rows)

        def embedding(tower: str) -> TowerEmbedding:
            of_items = tower == "item"
            return TowerEmbedding(
                schema.item if of_items else schema.user,
                config=config.emb,
                pooling=config.seq.pooling,
                sequences=() if of_items else self._sequences,
                extra_tables=(item_ids,) if of_items and reads_clicks and not has_id_node else (),
                exclude=config.exclude_fields,
            )

        self.user_fields, self.item_fields = embedding("user"), embedding("item")
        self.scenario_SD = nn.Parameter(torch.empty(len(schema.scenarios), config.emb.dim))
        nn.init.normal_(self.scenario_SD, std=config.emb.init_std)
        users, items = len(self.user_fields.names), len(self.item_fields.names)
        if not (users and items):
            raise ConfigError("model.exclude_fields leaves a tower without any field")

        self.user_interaction = make_interaction(users, config)
        self.item_interaction = make_interaction(items, config)
        user_flat, item_flat = users * config.emb.dim, items * config.emb.dim
        user_width, item_width = fusion_width(user_flat, config), fusion_width(item_flat, config)
        self.user_preference = ScenarioPreference(user_width, config)
        self.item_preference = (
            ItemPreference(item_width, config)
            if config.item_tower.scenario_aware
            else ConstantPreference(item_width)
        )
        self.user_fusion = FUSIONS[config.fusion](user_flat, user_width, config)
        self.item_fusion = FUSIONS[config.fusion](item_flat, item_width, config)
        self.score = Score(schema, config)
        self.drop: nn.Module = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    @property
    def dim(self) -> int:
        """Width G of both towers' vectors."""
        return self.score.dim

    @property
    def num_codes(self) -> int:
        """Size of the codebook; 0 without one."""
        reads_history = self.config.pref.sequence == "spec"
        return self.config.vq.codebook_size if reads_history else 0

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario, eqs. (2)-(15)."""
        preference = self._preference(users)
        fused = self._fuse_users(self._user_nodes(users), preference)
        return EncodedUsers(self.score.user(fused.vector_PG), preference.loss, preference.codes_B)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios; graph and messages once per item."""
        nodes_MND = self.item_fields(items.categorical_BF, items.dense_BF, items.bags)
        hidden = self._hidden(self.item_interaction, nodes_MND)
        preference_SW = self.item_preference(self.scenario_SD, self.user_preference.encode_scenario)
        fused: Fused = self.item_fusion(hidden, preference_SW, index_P, scenario_P)
        return self.score.item(fused.vector_PG, items.rows_B[index_P], scenario_P)

    def axis_labels(
        self, vocabularies: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[Sequence[Hashable], ...]]:
        """Return what rows of tables stand for: vocabulary values and scenario names."""
        scenarios = self.schema.scenarios
        labels: dict[str, tuple[Sequence[Hashable], ...]] = {"scenario_SD": (scenarios,)}
        for tower, fields in (("user", self.user_fields), ("item", self.item_fields)):
            if fields.table is not None:
                rows = fields.table.labels(tower, vocabularies)
                labels[f"{tower}_fields.table.weight_RD"] = (rows,)
        if self.score.bias_RS is not None:
            items = [UNKNOWN_ROW, MISSING_ROW, *vocabularies["items"]]
            labels["score.bias_RS"] = (items, scenarios)
        return labels

    def start_from(self, splits: Splits) -> None:
        """Start the popularity bias at what the training window's clicks say."""
        if self.score.bias_RS is not None:
            with torch.no_grad():
                self.score.bias_RS.copy_(log_popularity(splits))

    @torch.no_grad()
    def inspect(self, users: UserBatch) -> Inspection:
        """Return what the model sees in the queries."""
        preference, nodes_BND = self._preference(users), self._user_nodes(users)
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

    def _user_nodes(self, users: UserBatch) -> Tensor:
        clicks = {HISTORY_NODE: users.history, SHOWN_NODE: users.shown}
        pooled = [self._pool_items(clicks[node]) for node in self._sequences]
        nodes_BND: Tensor = self.user_fields(
            users.categorical_BF, users.dense_BF, users.bags, pooled
        )
        return nodes_BND

    def _preference(self, users: UserBatch) -> Preference:
        own_BD = nonempty_B = None
        if self.user_preference.reads_history:
            own_BD = self._pool_items(users.spec_history)
            nonempty_B = count_values(users.spec_history) > 0
        preference: Preference = self.user_preference(
            own_BD, nonempty_B, self.scenario_SD, users.scenario_B
        )
        return preference

    def _fuse_users(self, nodes_BND: Tensor, preference: Preference) -> Fused:
        fused: Fused = self.user_fusion(
            self._hidden(self.user_interaction, nodes_BND), preference.vector_BW
        )
        return fused

    def _hidden(self, interaction: nn.Module, nodes_BND: Tensor) -> list[Tensor]:
        """Return ``h(0) .. h(L)`` as the fusion reads them."""
        first, *later = interaction(self.drop(nodes_BND))
        return [first, *(self.drop(hidden) for hidden in later)]

    def _pool_items(self, packed: Packed) -> Tensor:
        table = self.item_fields.table
        assert table is not None, "a tower that reads clicks has an item table"
        return table.pool(ITEM_ID, packed, how=self.config.seq.pooling)


def _sequence_nodes(schema: Schema, config: PerscenConfig) -> tuple[str, ...]:
    """Return the user nodes that pool item sequences."""
    nodes = (HISTORY_NODE,) * schema.user.sequence + (SHOWN_NODE,) * config.shown_sequence
    return tuple(node for node in nodes if node not in config.exclude_fields)


def _check_exclusions(schema: Schema, config: PerscenConfig) -> None:
    known = {HISTORY_NODE, SHOWN_NODE}
    for tower in (schema.user, schema.item):
        known |= {*(f.name for f in (*tower.categorical, *tower.bags)), *tower.dense}
    for name in config.exclude_fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"model.exclude_fields: {name!r} is not a field of either tower",
                hint=f"did you mean {near[0]!r}?"
                if near
                else f"fields: {', '.join(sorted(known))}",
            )
