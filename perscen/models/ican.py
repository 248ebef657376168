"""ICAN: internal and contextual attention over the clicks of every scenario.

Letters: B queries, S scenarios, A attributes, M groups (S times A), D embedding width, M also
distinct items in the item tower, P (item, scenario) pairs.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, UserBatch
from perscen.data.splits import Splits
from perscen.models.attention import SelfAttention
from perscen.models.config import IcanConfig
from perscen.models.embedding import count_values
from perscen.models.field_towers import ITEM_ID, FieldTowers
from perscen.models.gather import spread
from perscen.models.item_attributes import ItemAttributes
from perscen.models.layers import mlp
from perscen.models.requirements import needs_clicks, needs_scenarios
from perscen.models.two_tower import EncodedUsers
from perscen.schema import Schema

USUAL_ATTRIBUTES: Final = ("author_id", "tag", "cate_id", "brand")
"""Attributes that a click is read by beside its id, where items have them."""

EXTRA_WEIGHT: Final = 1e-3
"""Added to the sum that the contextual weights are divided by: they sum to less than one."""


class ContextualAttention(nn.Module):
    """How much each group of clicks matters in the scenario that is asked for."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weigh = mlp(4 * dim, 64, 32, 1, activation=nn.Tanh)

    def forward(self, group_BMD: Tensor, scenario_BD: Tensor, counted_BM: Tensor | None) -> Tensor:
        """Return each group's weight ``[B, M]``; groups that are not counted get none."""
        target_BMD = scenario_BD[:, None].expand_as(group_BMD)
        read = [target_BMD, group_BMD, group_BMD - target_BMD, group_BMD * target_BMD]
        weight_BM = self.weigh(torch.cat(read, dim=2)).squeeze(2).tanh().exp()
        if counted_BM is not None:
            weight_BM = weight_BM * counted_BM
        weights: Tensor = weight_BM / (weight_BM.sum(dim=1, keepdim=True) + EXTRA_WEIGHT)
        return weights


class Ican(FieldTowers):
    """ICAN: groups of clicks by scenario and attribute, weighed by the scenario asked for.

    Raises:
        ConfigError: The data have no clicks of users or the settings leave them out; the data have
            only one scenario, or not the attributes.
    """

    family = "ican"
    config: IcanConfig

    def __init__(self, schema: Schema, config: IcanConfig) -> None:
        needs_clicks(schema, config)
        needs_scenarios(schema, self.family)
        dim = config.emb.dim
        widths = (*config.widths[:-1], dim) if config.item_id_only else config.widths
        attributes = _attributes(schema, config)
        by = tuple(name for name in attributes if name != ITEM_ID)
        super().__init__(
            schema,
            config,
            width=widths[-1],
            reads_clicks=ITEM_ID in attributes,
            clicks_read_by=by,
            item_nodes=not config.item_id_only,
            history_node=False,
        )
        self._attributes = attributes
        self.catalogue = ItemAttributes(schema, by, config, setting="attributes")
        num_groups = len(schema.scenarios) * len(attributes)
        self.contextual = ContextualAttention(dim)
        self.internal = SelfAttention(dim, config.heads, scaled=False)
        wide = self.user_width + num_groups * dim
        self.user_tower = nn.Sequential(
            mlp(wide, *widths, activation=nn.Tanh, dropout=config.dropout), nn.Tanh()
        )
        self.item_tower = (
            None
            if config.item_id_only
            else mlp(self.item_width, *config.item_widths, widths[-1], dropout=config.dropout)
        )

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario."""
        assert self.scenario is not None, "ICAN's target is the scenario"
        group_BMD, counted_BM = self.groups(users)
        weight_BM = self.contextual(
            group_BMD,
            spread(self.scenario, users.scenario_B),
            counted_BM if self.config.mask_empty_groups else None,
        )
        attended_BMD = self.internal(weight_BM[:, :, None] * group_BMD)
        read_BND = torch.cat([self.user_nodes(users), attended_BMD], dim=1)
        vector_BG: Tensor = self.user_tower(self.drop(read_BND).flatten(1))
        return self.encoded(vector_BG, users)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]``: one per item, equal in all scenarios."""
        if self.item_tower is None:
            vector_MG = self.item_rows(items.rows_B)
        else:
            vector_MG = self.item_tower(self.drop(self.item_nodes(items)).flatten(1))
        return self.score.item(spread(vector_MG, index_P), items.rows_B[index_P], scenario_P)

    def groups(self, users: UserBatch) -> tuple[Tensor, Tensor]:
        """Return the pooled clicks ``[B, M, D]`` by scenario and attribute, and which have any."""
        clicks = users.by_scenario()
        pooled, counted = [], []
        for name in self._attributes:
            values = clicks if name == ITEM_ID else self.catalogue.of(name, clicks)
            pooled.append(self.pool_values(name, values))
            counted.append(count_values(values) > 0)
        num_users = len(users.scenario_B)
        num_groups = len(self.schema.scenarios) * len(self._attributes)
        group_BMD = torch.stack(pooled, dim=1).view(num_users, num_groups, self.config.emb.dim)
        return group_BMD, torch.stack(counted, dim=1).view(num_users, num_groups)

    def start_from(self, splits: Splits) -> None:
        """Take over the catalogue's attributes, and count what is popular."""
        super().start_from(splits)
        self.catalogue.start_from(splits)


def _attributes(schema: Schema, config: IcanConfig) -> tuple[str, ...]:
    """Return what a click is read by: its id, then the attributes that are asked for."""
    if config.attributes is not None:
        return config.attributes
    fields = {field.name for field in (*schema.item.categorical, *schema.item.bags)}
    known = fields - {*config.exclude_fields}
    return (ITEM_ID, *(name for name in USUAL_ATTRIBUTES if name in known))
