"""The verbs every model has: encode users, encode items, save, load.

Letters: B queries, P (item, scenario) pairs, M distinct items, G width of both towers' vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, UserBatch
from perscen.data.splits import Splits
from perscen.errors import ArtifactError
from perscen.models.config import TwoTowerConfig, read_model_config
from perscen.models.popularity import Seen
from perscen.schema import Schema


@dataclass(frozen=True)
class EncodedUsers:
    """Query vectors ``[B, G]``, the model's own loss term, and the code each query fell on.

    ``auxiliary_loss`` is a scalar, the mean over the batch's rows (0 for a model without one): a
    codebook's loss, eq. (10), or what else the model adds, as it counts beside the task's. In a
    training shared by several ranks it is this rank's part of it: the sum over its rows, divided by
    the rows of all. ``codes_B`` is None for a model without a codebook.
    """

    vectors_BG: Tensor
    auxiliary_loss: Tensor
    codes_B: Tensor | None


class Pretraining(Protocol):
    """A stage before the first epoch, on rows and by a loss of its own.

    What is drawn in it follows from a seed, the epoch and the step, so it can be interrupted and
    resumed like the training itself.
    """

    num_epochs: int
    steps_per_epoch: int

    def loss(self, *, epoch: int, step: int) -> Tensor:
        """Return the loss of a step, of several ranks this one's part; epochs count from 1."""


class TwoTower(nn.Module, ABC):
    """A retrieval model whose score is the inner product of a user's and an item's vector."""

    family: ClassVar[str]

    def __init__(self, schema: Schema, config: TwoTowerConfig) -> None:
        super().__init__()
        self.schema = schema
        self.config = config

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width G of both towers' vectors."""

    @property
    def num_codes(self) -> int:
        """Size of the codebook; 0 for a model without one."""
        return 0

    @abstractmethod
    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario."""

    @abstractmethod
    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]``: of the item at ``index_P`` of ``items``, in a scenario.

        What does not depend on the scenario is computed once per item of ``items`` (M), however
        many pairs point to it.
        """

    def encode_items_counted(
        self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor, count_P: Tensor
    ) -> Tensor:
        """Return the same for pairs that each stand for ``count_P`` equal ones of the batch.

        It makes a difference to a model that reads statistics off a batch, and to no other.
        """
        del count_P
        return self.encode_items(items, index_P, scenario_P)

    def axis_labels(
        self, vocabularies: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[Sequence[Hashable], ...]]:
        """Return what the positions of a weight's leading axes stand for; by default nothing.

        A later model may have other vocabularies and scenarios: its weights are matched by these.
        """
        del vocabularies
        return {}

    def start_from(self, splits: Splits) -> None:
        """Count what the model takes from the training window; by default nothing."""

    def own_contribution(self, seen: Seen) -> NDArray[np.float64]:
        """Return ``[E]``: what each row of the training window adds to the score of its own item.

        A model that has counted the training window before it is trained on it must not take a row
        for evidence of itself: training takes this off the row's logit. By default it is 0.
        """
        return np.zeros(len(seen.item))

    def pretraining(self, splits: Splits, *, seed: int, device: torch.device) -> Pretraining | None:
        """Return the stage that the model goes through before its first epoch; None without one.

        Raises:
            ConfigError: The training window has nothing to do it with.
        """
        del splits, seed, device
        return None

    def save(self, directory: Path) -> None:
        """Write weights, settings and schema."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()},
            directory / "weights.safetensors",
        )
        (directory / "model.json").write_text(
            self.config.model_dump_json(indent=2) + "\n", encoding="utf-8"
        )
        (directory / "schema.json").write_text(
            self.schema.model_dump_json(indent=2) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Return the model that :meth:`save` wrote, in evaluation mode on the CPU.

        Raises:
            ArtifactError: The weights do not fit the settings.
        """
        config = read_model_config((directory / "model.json").read_text(encoding="utf-8"))
        schema = Schema.model_validate_json((directory / "schema.json").read_text(encoding="utf-8"))
        model = cls(schema, config)
        weights: Mapping[str, Tensor] = load_file(directory / "weights.safetensors")
        try:
            model.load_state_dict(dict(weights))
        except RuntimeError as exc:
            raise ArtifactError(
                f"the weights in {directory} do not fit its model.json: {exc}",
                hint="run `train` again",
            ) from exc
        return model.eval()
