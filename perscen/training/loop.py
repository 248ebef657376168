"""The training loop: epochs, early stopping, checkpoints, and a stop before anything is spoilt."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from perscen.config import TrainConfig
from perscen.data.splits import Splits
from perscen.errors import ConfigError, Preempted, TrainingDiverged
from perscen.models.ranks import gather_rows, num_ranks, rank
from perscen.models.two_tower import TwoTower
from perscen.seeding import seed_torch
from perscen.training.batching import plan_batches
from perscen.training.checkpoint import Checkpoint
from perscen.training.device import torch_settings
from perscen.training.distributed import add_up_gradients, start_alike, wait_for_rank_0
from perscen.training.losses import BatchLoss, Objective
from perscen.training.optimiser import Optimiser
from perscen.training.records import EpochRecord, LossSums
from perscen.training.validation import Validator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """How a training went; the model itself holds the best epoch's weights."""

    epochs: tuple[EpochRecord, ...]
    best: EpochRecord
    code_counts: dict[str, list[int]]
    """Validation queries per scenario that fell on each code, at the best epoch."""


class Watcher(Protocol):
    """Someone who is told how the training goes."""

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        """Take note of a finished step; steps count from 1."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Take note of a finished epoch; those before a resumed checkpoint are told again."""


def train(
    model: TwoTower,
    splits: Splits,
    config: TrainConfig,
    *,
    checkpoint: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
    watchers: Sequence[Watcher] = (),
) -> Trained:
    """Train a model in place and leave it on the CPU, in evaluation mode, with its best weights.

    Everything random follows from (seed, epoch, step), so a training that goes on from its
    checkpoint ends with the same weights, to the bit on a CPU, as one never interrupted.

    Within a process group the ranks share the work (:mod:`perscen.training.distributed`): all call
    this with the same arguments and all return the same; rank 0 alone keeps a checkpoint.

    Args:
        model: A fresh or warm-started model.
        splits: Training rows and validation queries.
        config: The ``train`` section.
        checkpoint: Where to go on from, and where to write to.
        stop: Asked at each step; once true on any rank, a checkpoint is written and ``Preempted``
            raised on all.
        watchers: Told of steps and epochs.

    Raises:
        ConfigError: A setting does not fit the data.
        Preempted: ``stop`` said so.
        TrainingDiverged: The loss, or a vector, is not finite; no optimiser step was taken on it.
        ServiceUnavailable: Another rank is gone.
    """
    with torch_settings(config) as device:
        training = _Training(model, splits, config, device=device, checkpoint=checkpoint)
        training.resume(watchers)
        return training.run(stop, watchers)


class _Training:
    def __init__(
        self,
        model: TwoTower,
        splits: Splits,
        config: TrainConfig,
        *,
        device: torch.device,
        checkpoint: Checkpoint | None,
    ) -> None:
        if not len(splits.train.item):
            raise ConfigError(
                "the training window has no click of a kept user, so there is nothing to train on",
                hint="widen split.train or split.train_days, or lower split.min_interactions",
            )
        self._model = model.to(device).train()
        self._config = config
        self._splits = splits
        self._scenario_E: NDArray[np.int32] = np.asarray(splits.train.scenario)
        self._objective = Objective(model, splits, config, device=device)
        self._validator = Validator(splits, k=config.monitor_k, device=device)
        self._optimiser = Optimiser(model, config.optim)
        self._average = _running_mean(model, decay=config.optim.weight_average)
        self._checkpoint = checkpoint
        self._stop: Callable[[], bool] = lambda: False
        self._told = False
        self._epoch, self._step = 1, 0
        self._sums = LossSums()
        self._epochs: list[EpochRecord] = []
        self._best: EpochRecord | None = None
        self._best_weights: dict[str, Tensor] = {}
        self._best_counts: dict[str, list[int]] = {}

    def run(self, stop: Callable[[], bool], watchers: Sequence[Watcher]) -> Trained:
        self._stop = stop
        start_alike(self._model)
        while not self._finished():
            started = time.monotonic()
            self._run_epoch(watchers)
            record = self._close_epoch()
            logger.info(
                "epoch finished",
                extra={
                    "epoch": record.epoch,
                    "loss": round(record.loss, 5),
                    "macro_recall": round(record.macro_recall, 5),
                    "seconds": round(time.monotonic() - started, 1),
                },
            )
            for watcher in watchers:
                watcher.epoch_done(record)
        assert self._best is not None
        self._model.load_state_dict(self._best_weights)
        self._model.cpu().eval()
        return Trained(tuple(self._epochs), self._best, self._best_counts)

    def _finished(self) -> bool:
        done = self._epoch - 1
        if done == 0 or self._best is None:
            return False
        # Patience starts to count after min_epochs: before, a model may sit on the plateau of
        # global popularity without being done.
        waited = done - max(self._best.epoch, self._config.min_epochs)
        return done >= self._config.max_epochs or waited >= self._config.patience

    def _run_epoch(self, watchers: Sequence[Watcher]) -> None:
        batches = plan_batches(self._scenario_E, config=self._config, epoch=self._epoch)
        while self._step < len(batches):
            self._take_step(batches[self._step])
            self._step += 1
            for watcher in watchers:
                watcher.step_done(epoch=self._epoch, step=self._step, num_steps=len(batches))
            if self._told_to_stop():
                self._save()
                wait_for_rank_0()
                raise Preempted(
                    f"told to stop in epoch {self._epoch} after step {self._step} of "
                    f"{len(batches)}; "
                    + ("a checkpoint was written" if self._checkpoint else "nothing was kept"),
                    hint="run the step again: it goes on from there",
                )
            if self._checkpoint and self._checkpoint.due():
                self._save()

    def _take_step(self, rows_B: NDArray[np.int64]) -> None:
        # Ranks do not drop out alike; rank 0 draws what one process does.
        of_rank = [rank()] if rank() else []
        seed_torch(self._config.seed, "step", self._epoch, self._step, *of_rank)
        loss = self._objective(rows_B, epoch=self._epoch, step=self._step)
        self._optimiser.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        # All ranks must stop at the same step: what one is told travels with its gradients.
        told = loss.total.new_tensor(float(num_ranks() > 1 and self._stop()))
        total, task, auxiliary, told_any = add_up_gradients(
            self._model.parameters(), (loss.total, loss.task_B.sum(), loss.auxiliary, told)
        )
        if not math.isfinite(total):
            raise self._diverged(total, rows_B, loss)
        self._optimiser.step()
        if self._average is not None:
            self._average.update_parameters(self._model)
        self._sums.add(loss=total, task=task, auxiliary=auxiliary, weight=len(rows_B))
        self._told = bool(told_any)

    def _told_to_stop(self) -> bool:
        return self._told if num_ranks() > 1 else self._stop()

    def _close_epoch(self) -> EpochRecord:
        kept: Any = self._model if self._average is None else self._average.module
        validation = self._validator(kept)
        if validation.not_finite is not None:
            raise TrainingDiverged(
                f"after epoch {self._epoch} vectors of scenario {validation.not_finite} are not "
                "finite",
                epoch=self._epoch,
                step=self._step,
                scenario=validation.not_finite,
                hint=_CALMER,
            )
        record = self._sums.record(self._epoch, validation)
        self._epochs.append(record)
        if self._best is None or record.macro_recall > self._best.macro_recall:
            self._best = record
            self._best_counts = validation.code_counts
            self._best_weights = {
                name: weight.detach().cpu().clone() for name, weight in kept.state_dict().items()
            }
        self._epoch, self._step, self._sums = self._epoch + 1, 0, LossSums()
        return record

    def _diverged(
        self, value: float, rows_B: NDArray[np.int64], loss: BatchLoss
    ) -> TrainingDiverged:
        broken_B = ~gather_rows(loss.task_B.detach()).isfinite().cpu().numpy()
        row = int(rows_B[int(broken_B.argmax())])  # the first one, if only the auxiliary loss broke
        scenario = self._splits.schema.scenarios[int(self._scenario_E[row])]
        return TrainingDiverged(
            f"the loss is {value} in epoch {self._epoch}, step {self._step + 1}, scenario "
            f"{scenario} ({int(broken_B.sum()):,} of {len(rows_B):,} positives); the optimiser "
            "step was not taken",
            epoch=self._epoch,
            step=self._step + 1,
            scenario=scenario,
            hint=_CALMER,
        )

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._checkpoint.save(
            {
                "model": self._model.state_dict(),
                "average": self._average.state_dict() if self._average else {},
                "optimiser": self._optimiser.state_dict(),
                "epoch": self._epoch,
                "step": self._step,
                "sums": vars(self._sums),
                "epochs": [record.model_dump() for record in self._epochs],
                "best_epoch": self._best.epoch if self._best else 0,
                "best_weights": self._best_weights,
                "best_counts": self._best_counts,
            }
        )

    def resume(self, watchers: Sequence[Watcher]) -> None:
        """Go on from the checkpoint when there is one of this training."""
        state: dict[str, Any] | None = self._checkpoint.load() if self._checkpoint else None
        if state is None:
            return
        self._model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._epoch, self._step = state["epoch"], state["step"]
        self._sums = LossSums(**state["sums"])
        self._epochs = [EpochRecord(**record) for record in state["epochs"]]
        if state["best_epoch"]:
            self._best = self._epochs[state["best_epoch"] - 1]
        self._best_weights, self._best_counts = state["best_weights"], state["best_counts"]
        logger.info("resumed", extra={"epoch": self._epoch, "step": self._step})
        for record in self._epochs:
            for watcher in watchers:
                watcher.epoch_done(record)


def _running_mean(model: TwoTower, *, decay: float) -> AveragedModel | None:
    """Return a copy of the model that follows its weights and codebook slowly.

    Sparse scenarios have few rows, so their weights jump from step to step; the mean does not.
    """
    if not decay:
        return None
    # Buffers too: the codebook must move with the encoder whose vectors it quantises.
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def average_numbers(means: Any, values: Any, num_averaged: Any) -> None:
        if means[0].is_floating_point():
            average(means, values, num_averaged)
        else:  # rows and counts have no mean
            for mean, value in zip(means, values, strict=True):
                mean.copy_(value)

    return AveragedModel(model, multi_avg_fn=average_numbers, use_buffers=True)


_CALMER = (
    "lower train.optim.lr, or look at the newest day's data; a fixed seed reproduces this step"
)
