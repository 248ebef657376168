"""DSSM (Huang et al. 2013): an MLP on either side, as used for recommendation."""

from __future__ import annotations

from torch import Tensor

from perscen.data.batches import ItemBatch, UserBatch
from perscen.models.config import DssmConfig
from perscen.models.field_towers import FieldTowers
from perscen.models.forms import Formed
from perscen.models.layers import ScenarioMlp
from perscen.models.two_tower import EncodedUsers
from perscen.schema import Schema


class DssmTowers(FieldTowers):
    """One DSSM, with or without the scenario as a user field, and as an item field."""

    config: DssmConfig

    def __init__(self, schema: Schema, config: DssmConfig, *, reads_scenario: bool) -> None:
        super().__init__(
            schema,
            config,
            width=config.widths[-1],
            reads_scenario=reads_scenario,
            spec_node=config.use_spec_sequence,
        )
        user = config.emb.dim if reads_scenario else 0
        item = user if config.item_scenario else 0
        self.user_tower = ScenarioMlp(self.user_width, user, config.widths, config.dropout)
        self.item_tower = ScenarioMlp(self.item_width, item, config.widths, config.dropout)

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries."""
        x_BW = self.drop(self.user_nodes(users)).flatten(1)
        vector_BG = self.user_tower(x_BW, self.scenario, scenario_P=users.scenario_B)
        return self.encoded(vector_BG, users)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios; without ``item_scenario`` once each."""
        x_MW = self.drop(self.item_nodes(items)).flatten(1)
        vector_PG = self.item_tower(x_MW, self.scenario, index_P, scenario_P)
        return self.score.item(vector_PG, items.rows_B[index_P], scenario_P)


class Dssm(Formed):
    """DSSM in its two forms, DSSM-M and DSSM-S."""

    family = "dssm"
    member = DssmTowers
