"""A tower and the indexes of its own space: the unit that must never be torn apart.

Letters: B queries, K results, G width of the vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.data.batches import UserBatch
from perscen.errors import ArtifactError
from perscen.models.families import load_model
from perscen.models.fingerprint import space_fingerprint
from perscen.models.two_tower import TwoTower
from perscen.retrieval.index import ScenarioIndex


@dataclass(frozen=True)
class Pair:
    """A model and, by scenario, the indexes of its items."""

    model: TwoTower
    indexes: Mapping[str, ScenarioIndex]

    @classmethod
    def open(
        cls, *, model: Path, indexes: Path, scenarios: Sequence[str], fingerprint: str
    ) -> Pair:
        """Return the pair in two directories after checking that it is one.

        Args:
            model: Directory of the model, vocabularies and scalers included.
            indexes: Directory of the indexes.
            scenarios: Which of them to open.
            fingerprint: The space both must be of.

        Raises:
            ArtifactError: The model or an index is of another space.
        """
        tower = load_model(model)
        vocabularies = json.loads((model / "vocabularies.json").read_text(encoding="utf-8"))
        actual = space_fingerprint(tower, vocabularies)
        if actual != fingerprint:
            raise ArtifactError(
                f"the model in {model} is of space {actual[:12]}, expected {fingerprint[:12]}",
                hint="a model is never edited; publish it again, or go back to another release",
            )
        opened = {}
        for scenario in scenarios:
            index = ScenarioIndex.open(indexes, scenario)
            if (index.sidecar.fingerprint, index.sidecar.dim) != (fingerprint, tower.dim):
                raise ArtifactError(
                    f"the index of scenario {scenario!r} holds vectors of space "
                    f"{index.sidecar.fingerprint[:12]} and width {index.sidecar.dim}, "
                    f"the tower's are of {fingerprint[:12]} and width {tower.dim}",
                    hint="indexes belong to the model they were built from: run `index` again",
                )
            opened[scenario] = index
        return cls(model=tower, indexes=opened)

    @torch.inference_mode()
    def encode(self, users: UserBatch) -> Tensor:
        """Return the queries' vectors ``[B, G]``."""
        return self.model.encode_users(users).vectors_BG.float()

    def search(
        self, vectors_BG: Tensor, scenario_B: Tensor, k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
        """Return scores and raw item ids ``[B, K]`` of each query in its scenario, best first.

        All indexes hold the whole catalogue, so K is the smaller of ``k`` and its size.
        """
        names = [self.model.schema.scenarios[number] for number in scenario_B.tolist()]
        catalogue = next(iter(self.indexes.values())).item_ids_V
        k = min(k, len(catalogue))
        scores_BK = np.empty((len(names), k), np.float32)
        items_BK = np.empty((len(names), k), catalogue.dtype)
        for scenario in sorted(set(names)):
            mine = np.array([name == scenario for name in names])
            index = self.indexes[scenario]
            scores_BK[mine], positions = index.search(vectors_BG[torch.from_numpy(mine)], k)
            items_BK[mine] = index.item_ids_V[positions]
        return scores_BK, items_BK
