"""What all families read alike: the fields of both towers as vectors, and the score at the end.

Letters: B queries, M distinct items, P (item, scenario) pairs, S scenarios, N nodes, D embedding
width, R item rows.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, Packed, UserBatch
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.config import TwoTowerConfig
from perscen.models.embedding import TowerEmbedding
from perscen.models.gather import spread
from perscen.models.popularity import Seen
from perscen.models.score import Score
from perscen.models.two_tower import EncodedUsers, TwoTower
from perscen.schema import Field, Schema

ITEM_ID: Final = "item_id"
HISTORY_NODE: Final = "history"
SHOWN_NODE: Final = "shown"
SPEC_NODE: Final = "spec_history"
SCENARIO_NODE: Final = "scenario"


class FieldTowers(TwoTower):
    """Both towers' embeddings, the scenario's, and the score.

    Args:
        width: Of both towers' vectors, before the score.
        reads_scenario: Whether there is an embedding of the scenario.
        reads_clicks: Whether clicks are read by their ids beside the pooled sequences.
        clicks_read_by: Item fields besides the id that clicks are read by.
        item_nodes: Whether the item tower reads its fields.
        spec_node: Whether the pooled clicks of the scenario are one more user node.
        history_node: Whether the pooled clicks of all scenarios are a user node, where there are
            any.
        shown_node: Whether the pooled shown items are one, where the settings have them read.
        scenario_node: Whether the scenario's embedding is one.

    Raises:
        ConfigError: ``exclude_fields`` names no field, or leaves a tower without any.
    """

    def __init__(
        self,
        schema: Schema,
        config: TwoTowerConfig,
        *,
        width: int,
        reads_scenario: bool = True,
        reads_clicks: bool = False,
        clicks_read_by: tuple[str, ...] = (),
        item_nodes: bool = True,
        spec_node: bool = False,
        history_node: bool = True,
        shown_node: bool = True,
        scenario_node: bool = False,
    ) -> None:
        super().__init__(schema, config)
        _check_exclusions(schema, config)
        self._pooling = config.seq.pooling
        self._sequences = _sequence_nodes(
            schema,
            config,
            history_node=history_node,
            shown_node=shown_node,
            spec_node=spec_node,
        )
        self._scenario_node = scenario_node
        excluded = config.exclude_fields if item_nodes else tuple(field_names(schema, "item"))
        rows = [Field(name=ITEM_ID, num_rows=schema.num_item_rows)] * (
            reads_clicks or bool(self._sequences) or not item_nodes
        )
        fields = (*schema.item.categorical, *schema.item.bags)
        rows += [field for field in fields if field.name in clicks_read_by]
        nodes = {field.name for field in fields if field.name not in excluded}
        self.user_fields = TowerEmbedding(
            schema.user,
            config=config.emb,
            pooling=self._pooling,
            vectors=(*self._sequences, *[SCENARIO_NODE] * scenario_node),
            exclude=config.exclude_fields,
        )
        self.item_fields = TowerEmbedding(
            schema.item,
            config=config.emb,
            pooling=self._pooling,
            extra_tables=tuple(field for field in rows if field.name not in nodes),
            exclude=excluded,
        )
        if not (self.user_fields.names and (self.item_fields.names or not item_nodes)):
            raise ConfigError(
                "model.exclude_fields leaves a tower without any field",
                hint="leave each tower at least one",
            )
        if reads_scenario:
            self.scenario_SD = nn.Parameter(torch.empty(len(schema.scenarios), config.emb.dim))
            nn.init.normal_(self.scenario_SD, std=config.emb.init_std)
        self.score = Score(schema, config, width=width)
        self.drop: nn.Module = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    @property
    def dim(self) -> int:
        """Width G of both towers' vectors."""
        return self.score.dim

    @property
    def user_width(self) -> int:
        """Width of a user's nodes laid end to end."""
        return len(self.user_fields.names) * self.config.emb.dim

    @property
    def item_width(self) -> int:
        """Width of an item's nodes laid end to end."""
        return len(self.item_fields.names) * self.config.emb.dim

    @property
    def scenario(self) -> Tensor | None:
        """``e_s`` of every scenario, eq. (3), ``[S, D]``; None for a model without it."""
        return getattr(self, "scenario_SD", None)

    def user_nodes(self, users: UserBatch) -> Tensor:
        """Return ``[B, N, D]``: fields, then pooled sequences, eq. (2), then the scenario."""
        clicks = {
            HISTORY_NODE: users.history,
            SHOWN_NODE: users.shown,
            SPEC_NODE: users.spec_history,
        }
        vectors = [self.pool_items(clicks[node]) for node in self._sequences]
        if self._scenario_node:
            vectors.append(spread(self.scenario_SD, users.scenario_B))
        nodes_BND: Tensor = self.user_fields(
            users.categorical_BF, users.dense_BF, users.bags, vectors
        )
        return nodes_BND

    def item_nodes(self, items: ItemBatch) -> Tensor:
        """Return ``[M, N, D]``, the items' fields."""
        nodes_MND: Tensor = self.item_fields(items.categorical_BF, items.dense_BF, items.bags)
        return nodes_MND

    def item_rows(self, rows: Tensor) -> Tensor:
        """Return ``rows.shape + [D]``, the embeddings of item rows; row 0 gives zero."""
        table = self.item_fields.table
        assert table is not None, "a tower that reads item ids has an item table"
        return table.rows(ITEM_ID, rows)

    def pool_items(self, packed: Packed) -> Tensor:
        """Return ``[B, D]``, each row's items pooled as the settings say."""
        return self.pool_values(ITEM_ID, packed)

    def pool_values(self, field: str, packed: Packed) -> Tensor:
        """Return ``[B, D]``, each row's values of an item field pooled as the settings say."""
        table = self.item_fields.table
        assert table is not None, "a tower that reads clicks has an item table"
        return table.pool(field, packed, how=self._pooling)

    def encoded(self, vector_BG: Tensor, users: UserBatch) -> EncodedUsers:
        """Return query vectors as they are published, of a model without a loss of its own."""
        vectors_BG = self.score.user(vector_BG, users.categorical_BF)
        return EncodedUsers(vectors_BG, vector_BG.new_zeros(()), None)

    def axis_labels(
        self, vocabularies: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[Sequence[Hashable], ...]]:
        """Return what rows of tables stand for: vocabulary values and scenario names."""
        scenarios = self.schema.scenarios
        labels: dict[str, tuple[Sequence[Hashable], ...]] = {}
        if hasattr(self, "scenario_SD"):
            labels["scenario_SD"] = (scenarios,)
        for tower, fields in (("user", self.user_fields), ("item", self.item_fields)):
            if fields.table is not None:
                rows = fields.table.labels(tower, vocabularies)
                labels[f"{tower}_fields.table.weight_RD"] = (rows,)
        return labels

    def start_from(self, splits: Splits) -> None:
        """Count what is popular in the training window."""
        if self.score.prior is not None:
            self.score.prior.start_from(splits)

    def own_contribution(self, seen: Seen) -> NDArray[np.float64]:
        """Return what the popularity prior knows of rows of the training window from themselves."""
        if self.score.prior is None:
            return super().own_contribution(seen)
        return self.score.prior.own_contribution(seen)


def field_names(schema: Schema, tower: str) -> list[str]:
    """Return the names of a tower's fields, ``user`` or ``item``."""
    of = schema.user if tower == "user" else schema.item
    return [*(f.name for f in (*of.categorical, *of.bags)), *of.dense]


def _sequence_nodes(
    schema: Schema,
    config: TwoTowerConfig,
    *,
    history_node: bool,
    shown_node: bool,
    spec_node: bool,
) -> tuple[str, ...]:
    """Return the user nodes that pool item sequences."""
    wanted = {
        HISTORY_NODE: schema.user.sequence and history_node,
        SHOWN_NODE: config.shown_sequence and shown_node,
        SPEC_NODE: spec_node,
    }
    nodes = (node for node, is_wanted in wanted.items() if is_wanted)
    return tuple(node for node in nodes if node not in config.exclude_fields)


def _check_exclusions(schema: Schema, config: TwoTowerConfig) -> None:
    known = {HISTORY_NODE, SHOWN_NODE, *field_names(schema, "user"), *field_names(schema, "item")}
    for name in config.exclude_fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"model.exclude_fields: {name!r} is not a field of either tower",
                hint=f"did you mean {near[0]!r}?"
                if near
                else f"fields: {', '.join(sorted(known))}",
            )
