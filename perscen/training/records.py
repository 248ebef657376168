"""What is written down of each epoch, and of a whole training."""

from __future__ import annotations

from dataclasses import dataclass

from perscen.manifests import Record
from perscen.training.validation import Validation


class EpochRecord(Record):
    """What is known of an epoch: losses are means over its positives, recalls lie in [0, 1]."""

    epoch: int
    """Counted from 1."""
    steps: int
    """Optimiser steps taken since the first epoch began."""
    loss: float
    task_loss: float
    auxiliary_loss: float
    recall: dict[str, float]
    macro_recall: float
    code_usage: dict[str, float]
    code_perplexity: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """How a training went; the model itself holds the best epoch's weights."""

    epochs: tuple[EpochRecord, ...]
    best: EpochRecord
    code_counts: dict[str, list[int]]
    """Validation queries per scenario that fell on each code, at the best epoch."""
    pretraining: tuple[float, ...] = ()
    """Mean loss of each epoch of the stage before the first, for a model that has one."""


@dataclass
class LossSums:
    """Losses of an epoch so far, weighted by positives."""

    loss: float = 0.0
    task: float = 0.0
    auxiliary: float = 0.0
    weight: int = 0

    def add(self, *, loss: float, task: float, auxiliary: float, weight: int) -> None:
        """Add a step of ``weight`` positives: its mean losses, and the sum of its task losses."""
        self.loss += weight * loss
        self.task += task
        self.auxiliary += weight * auxiliary
        self.weight += weight

    def record(self, epoch: int, validation: Validation, *, steps: int) -> EpochRecord:
        """Return the epoch's record: mean losses, and how the validation went."""
        return EpochRecord(
            epoch=epoch,
            steps=steps,
            loss=self.loss / self.weight,
            task_loss=self.task / self.weight,
            auxiliary_loss=self.auxiliary / self.weight,
            recall=validation.recall,
            macro_recall=validation.macro_recall,
            code_usage=validation.code_usage,
            code_perplexity=validation.code_perplexity,
        )
