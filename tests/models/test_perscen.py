"""PERSCEN keeps the contract of every model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from perscen.data.batches import ItemBatch, UserBatch
from perscen.models.config import (
    EmbeddingConfig,
    GnnConfig,
    ItemTowerConfig,
    PerscenConfig,
    VqConfig,
)
from perscen.models.perscen import Perscen
from perscen.models.two_tower import EncodedUsers, TwoTower
from perscen.schema import Schema
from tests.models.contract import RetrieverContract

SMALL = PerscenConfig(
    emb=EmbeddingConfig(dim=8, init_std=0.3),
    gnn=GnnConfig(layers=2),
    vq=VqConfig(codebook_size=4),
    out_dim=16,
)


class Blind(Perscen):
    """A model from which the scenario is withheld, for the checkerboard to tell it apart."""

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        return super().encode_users(
            replace(
                users, spec_history=users.history, scenario_B=torch.zeros_like(users.scenario_B)
            )
        )

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        return super().encode_items(items, index_P, torch.zeros_like(scenario_P))


class TestPerscen(RetrieverContract):
    def make(self, schema: Schema) -> TwoTower:
        return Perscen(schema, SMALL)


class TestPerscenAsItShips(RetrieverContract):
    """Cosine, learned temperature, popularity bias, shown items, refined powers."""

    def make(self, schema: Schema) -> TwoTower:
        config = SMALL.model_copy(
            update={
                "score": "cosine",
                "temperature": 0.1,
                "learn_temperature": True,
                "item_bias": "popularity",
                "shown_sequence": True,
                "graph": SMALL.graph.model_copy(update={"power": "refined"}),
            }
        )
        return Perscen(schema, config)


class TestBlind(RetrieverContract):
    scenario_aware = False

    def make(self, schema: Schema) -> TwoTower:
        config = SMALL.model_copy(update={"item_tower": ItemTowerConfig(scenario_aware=False)})
        return Blind(schema, config)
