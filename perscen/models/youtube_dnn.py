"""YoutubeDNN (Covington et al. 2016), its candidate generation as an inner product."""

from __future__ import annotations

from torch import Tensor

from perscen.data.batches import ItemBatch, UserBatch
from perscen.models.config import YoutubeDnnConfig
from perscen.models.field_towers import FieldTowers
from perscen.models.forms import Formed
from perscen.models.layers import ScenarioMlp
from perscen.models.two_tower import EncodedUsers
from perscen.schema import Schema


class YoutubeDnnTowers(FieldTowers):
    """One YoutubeDNN: the item's vector is its row of the table that the clicks are read from."""

    config: YoutubeDnnConfig

    def __init__(self, schema: Schema, config: YoutubeDnnConfig, *, reads_scenario: bool) -> None:
        super().__init__(
            schema,
            config,
            width=config.emb.dim,
            reads_scenario=reads_scenario,
            item_nodes=False,
            spec_node=config.use_spec_sequence,
        )
        widths = (*config.widths, config.emb.dim)
        scenario = config.emb.dim if reads_scenario else 0
        self.user_tower = ScenarioMlp(self.user_width, scenario, widths, config.dropout)

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries."""
        x_BW = self.drop(self.user_nodes(users)).flatten(1)
        vector_BG = self.user_tower(x_BW, self.scenario, scenario_P=users.scenario_B)
        return self.encoded(vector_BG, users)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]``: the rows of the items, equal in all scenarios."""
        rows_P = items.rows_B[index_P]
        return self.score.item(self.item_rows(rows_P), rows_P, scenario_P)


class YoutubeDnn(Formed):
    """YoutubeDNN in its two forms, YoutubeDNN-M and YoutubeDNN-S."""

    family = "youtube_dnn"
    member = YoutubeDnnTowers
