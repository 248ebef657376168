"""The steps of a stage of a training: gradients, being told to stop, checkpoints in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from perscen.config import OptimConfig
from perscen.errors import Preempted
from perscen.models.ranks import num_ranks
from perscen.models.two_tower import TwoTower
from perscen.training.checkpoint import Checkpoint
from perscen.training.distributed import add_up_gradients, wait_for_rank_0
from perscen.training.optimiser import Optimiser
from perscen.training.records import EpochRecord


class Watcher(Protocol):
    """Someone who is told how the training goes."""

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        """Take note of a finished step; steps count from 1. Epoch 0 is the pre-training, whole."""

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        """Take note of a finished epoch of the pre-training; told again as those below are."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Take note of a finished epoch; those before a resumed checkpoint are told again."""


class Steps:
    """Where a training is, and how it takes a step.

    Args:
        model: What is trained.
        config: The optimiser's settings.
        checkpoint: Says when it is due.
        save: Writes it.

    Attributes:
        epoch: Epoch of the next step; 0 is the pre-training.
        done: Steps taken in it.
        optimiser: That of the stage.
        stop: Asked at each step.
        watchers: Told of each step.
    """

    def __init__(
        self,
        model: TwoTower,
        config: OptimConfig,
        *,
        checkpoint: Checkpoint | None,
        save: Callable[[], None],
    ) -> None:
        self._model, self._config = model, config
        self._checkpoint, self._save = checkpoint, save
        self._told = False
        self.epoch, self.done = 1, 0
        self.optimiser = Optimiser(model, config)
        self.stop: Callable[[], bool] = lambda: False
        self.watchers: Sequence[Watcher] = ()

    def run(self, take: Callable[[int], None], *, until: int, num_steps: int) -> None:
        """Take steps, by their number from 0, until so many are done of an epoch's ``num_steps``.

        Raises:
            Preempted: ``stop`` said so, on any rank; a checkpoint was written.
        """
        while self.done < until:
            take(self.done)
            self.done += 1
            for watcher in self.watchers:
                watcher.step_done(epoch=self.epoch, step=self.done, num_steps=num_steps)
            if self._told_to_stop():
                self._save()
                wait_for_rank_0()
                stage = f"epoch {self.epoch}" if self.epoch else "the pre-training"
                raise Preempted(
                    f"told to stop in {stage} after step {self.done} of {num_steps}; "
                    + ("a checkpoint was written" if self._checkpoint else "nothing was kept"),
                    hint="run the step again: it goes on from there",
                )
            if self._checkpoint and self._checkpoint.due():
                self._save()

    def compute_gradients(self, total: Tensor, *others: Tensor) -> list[float]:
        """Set the gradients of ``total`` over all ranks; return each value's sum over ranks."""
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        # All ranks must stop at the same step: what one is told travels with its gradients.
        told = total.new_tensor(float(num_ranks() > 1 and self.stop()))
        *sums, told_any = add_up_gradients(self._model.parameters(), (total, *others, told))
        self._told = bool(told_any)
        return sums

    def begin_training(self) -> None:
        """Go from the pre-training to the first epoch, with an optimiser that starts anew."""
        self.epoch, self.done = 1, 0
        self.optimiser = Optimiser(self._model, self._config)

    def _told_to_stop(self) -> bool:
        return self._told if num_ranks() > 1 else self.stop()
