"""Self-training (ADIN, Jiang et al. 2022, arXiv:2206.09672): clicks lend themselves to scenarios.

What a user clicked in one scenario is a candidate in all others. Once a model has learned a little,
the candidates that it scores highest in a scenario are positives there too, more of them from epoch
to epoch: a sparse scenario learns from what the rich ones know of its users.

Letters: K candidates, E training rows.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from perscen.config import SelfTrainingConfig
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.ranks import gather_rows, share
from perscen.models.two_tower import TwoTower
from perscen.training.losses import Objective

logger = logging.getLogger(__name__)

Longs = NDArray[np.int64]

_ROWS_AT_ONCE = 8192


class SelfTraining:
    """Chooses the candidates that are positives in an epoch.

    Args:
        objective: Has the training rows, candidates among them.
        splits: Those of the training.
        config: The ``train.self_training`` section.

    Raises:
        ConfigError: No click can lend itself to another scenario.
    """

    def __init__(self, objective: Objective, splits: Splits, config: SelfTrainingConfig) -> None:
        self._objective, self._config = objective, config
        self._candidates = objective.rows.candidates
        if not len(self._candidates):
            raise ConfigError(
                "train.self_training: no click of the training window is one that its user could "
                f"have made in another scenario (there {_are(len(splits.schema.scenarios))})",
                hint="set train.self_training.share to 0",
            )

    def choose(self, model: TwoTower, *, epoch: int) -> Longs:
        """Return the training rows that become positives; all ranks return the same.

        Args:
            model: Judges the candidates as it is; it is left in training mode.
            epoch: From 1.
        """
        share_now = self.share(epoch)
        if not share_now:
            return self._candidates[:0]
        score_K = self._score(model)
        scenario_K = self._objective.rows.seen.scenario[self._candidates]
        chosen = []
        for scenario in np.unique(scenario_K):
            rows = np.flatnonzero(scenario_K == scenario)
            best_first = rows[np.argsort(-score_K[rows], kind="stable")]
            chosen.append(np.sort(best_first[: int(share_now * len(rows))]))
        rows_E = self._candidates[np.concatenate(chosen)]
        logger.info("self-training", extra={"epoch": epoch, "positives": len(rows_E)})
        return rows_E

    def share(self, epoch: int) -> float:
        """Return the share of each scenario's candidates that are positives in an epoch."""
        grown = (epoch - self._config.warmup) / self._config.ramp
        return self._config.share * min(max(grown, 0.0), 1.0)

    def _score(self, model: TwoTower) -> NDArray[np.float32]:
        own = self._candidates[share(len(self._candidates))]
        num_blocks = max(1, -(-len(own) // _ROWS_AT_ONCE))
        model.eval()
        with torch.inference_mode():
            parts = [
                self._objective.scores(model, rows) for rows in np.array_split(own, num_blocks)
            ]
        model.train()
        return gather_rows(torch.cat(parts)).cpu().numpy()


def _are(num_scenarios: int) -> str:
    return "is one scenario" if num_scenarios == 1 else f"are {num_scenarios} scenarios"
