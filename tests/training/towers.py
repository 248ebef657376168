"""A two-tower model small enough to train in a test in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from perscen.config import TrainConfig
from perscen.data.batches import ItemBatch, UserBatch
from perscen.data.splits import Splits
from perscen.models.config import EmbeddingConfig, PerscenConfig
from perscen.models.embedding import FieldTable
from perscen.models.two_tower import EncodedUsers, TwoTower
from perscen.schema import Field, Schema
from perscen.seeding import seed_torch
from perscen.training.checkpoint import Checkpoint


class TinyTower(TwoTower):
    """Id embeddings plus scenario embeddings, with dropout, two codes and a loss of its own."""

    family = "tiny"

    def __init__(self, schema: Schema, config: PerscenConfig | None = None) -> None:
        super().__init__(schema, config or PerscenConfig())
        self.user = nn.Embedding(schema.user.categorical[0].num_rows, 8)
        item_id = Field(name="item_id", num_rows=schema.num_item_rows)
        self.item = FieldTable([item_id], config=EmbeddingConfig(dim=8, init_std=1.0))
        self.scenario = nn.Embedding(len(schema.scenarios), 8)
        self.mix = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.1)

    @property
    def dim(self) -> int:
        return 8

    @property
    def num_codes(self) -> int:
        return 2

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        lengths = users.spec_history.offsets_B1.diff()
        history = self.item.pool("item_id", users.spec_history, how="mean")
        vectors = self.user(users.categorical_BF[:, 0]) + self.scenario(users.scenario_B) + history
        return EncodedUsers(
            self.dropout(self.mix(vectors)), vectors.square().mean(), (lengths % 2).long()
        )

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        vectors = self.item.rows("item_id", items.rows_B)
        return vectors[index_P] * (1 + self.scenario(scenario_P))


def tiny(splits: Splits, *, seed: int = 0) -> TinyTower:
    seed_torch(seed, "init")
    return TinyTower(splits.schema)


def checkpoint(directory: Path, *, fingerprint: str = "same", every_s: float = 1e9) -> Checkpoint:
    return Checkpoint(directory, fingerprint=fingerprint, every_s=every_s)


def quick(**changes: object) -> TrainConfig:
    """Return settings of a training of moments: a few steps per epoch."""
    settings: dict[str, object] = {
        "batch": {"size": 16, "unit": "positives"},
        "neg": {"n": 4},
        "optim": {"lr": 0.05},
        "monitor_k": 5,
        "max_epochs": 3,
        "device": "cpu",
    }
    return TrainConfig.model_validate(settings | changes)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
