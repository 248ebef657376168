"""The training loop: epochs, early stopping, checkpoints, and a stop before anything is spoilt."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.config import TrainConfig
from perscen.data.splits import Splits
from perscen.errors import ConfigError, TrainingDiverged
from perscen.models.ranks import gather_rows, rank
from perscen.models.two_tower import Pretraining, TwoTower
from perscen.seeding import seed_torch
from perscen.training.batching import plan_batches
from perscen.training.checkpoint import Checkpoint
from perscen.training.device import torch_settings
from perscen.training.distributed import start_alike
from perscen.training.losses import BatchLoss, Objective
from perscen.training.optimiser import running_mean
from perscen.training.records import EpochRecord, LossSums, Trained
from perscen.training.self_training import SelfTraining
from perscen.training.steps import Steps, Watcher
from perscen.training.validation import Validator

__all__ = ["Trained", "Watcher", "train"]

logger = logging.getLogger(__name__)


def train(
    model: TwoTower,
    splits: Splits,
    config: TrainConfig,
    *,
    checkpoint: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
    watchers: Sequence[Watcher] = (),
    pretrain: bool = True,
) -> Trained:
    """Train a model in place and leave it on the CPU, in evaluation mode, with its best weights.

    A model that has a stage before the first epoch goes through it first, as epoch 0: with the
    same settings of the optimiser, which starts anew after it, and with the same checkpoint.

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
        pretrain: Whether to go through the model's pre-training, if it has one. Not for a model
            that starts from an earlier one's weights, which have been through it and beyond.

    Raises:
        ConfigError: A setting does not fit the data, or they have nothing to pre-train on.
        Preempted: ``stop`` said so.
        TrainingDiverged: The loss, or a vector, is not finite; no optimiser step was taken on it.
        ServiceUnavailable: Another rank is gone.
    """
    with torch_settings(config) as device:
        training = _Training(
            model, splits, config, device=device, checkpoint=checkpoint, pretrain=pretrain
        )
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
        pretrain: bool,
    ) -> None:
        if not len(splits.train.item):
            raise ConfigError(
                "the training window has no click of a kept user, so there is nothing to train on",
                hint="widen split.train or split.train_days, or lower split.min_interactions",
            )
        self._model = model.to(device).train()
        self._device = device
        self._config = config
        self._splits = splits
        self._objective = Objective(model, splits, config, device=device)
        self._scenario_E = self._objective.rows.seen.scenario
        self._self_training = (
            SelfTraining(self._objective, splits, config.self_training)
            if config.self_training.share
            else None
        )
        self._lent = np.zeros(0, dtype=np.int64)  # candidates that are positives in this epoch
        self._validator = Validator(splits, k=config.monitor_k, device=device)
        self._steps = Steps(model, config.optim, checkpoint=checkpoint, save=self._save)
        self._average = running_mean(model, decay=config.optim.weight_average)
        self._checkpoint = checkpoint
        self._pretraining = (
            model.pretraining(splits, seed=config.seed, device=device) if pretrain else None
        )
        self._pretraining_losses: list[float] = []
        self._steps.epoch = 0 if self._pretraining else 1
        self._sums = LossSums()
        self._epochs: list[EpochRecord] = []
        self._best: EpochRecord | None = None
        self._best_weights: dict[str, Tensor] = {}
        self._best_counts: dict[str, list[int]] = {}

    def run(self, stop: Callable[[], bool], watchers: Sequence[Watcher]) -> Trained:
        self._steps.stop, self._steps.watchers = stop, watchers
        start_alike(self._model)
        if self._pretraining is not None and self._steps.epoch == 0:
            self._pretrain(self._pretraining, watchers)
        while not self._finished():
            started = time.monotonic()
            self._run_epoch()
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
        return Trained(
            tuple(self._epochs), self._best, self._best_counts, tuple(self._pretraining_losses)
        )

    def _finished(self) -> bool:
        if self._best is None:
            return False
        # Before min_steps a model may sit on the plateau of popularity without being done: epochs
        # without a better recall count from the first one that ends later.
        late = [r.epoch for r in self._epochs if r.steps >= self._config.min_steps]
        waited = late[-1] - max(self._best.epoch, late[0]) if late else 0
        return len(self._epochs) >= self._config.max_epochs or waited >= self._config.patience

    def _pretrain(self, stage: Pretraining, watchers: Sequence[Watcher]) -> None:
        num_steps = stage.num_epochs * stage.steps_per_epoch
        while len(self._pretraining_losses) < stage.num_epochs:
            epoch = len(self._pretraining_losses) + 1
            until = epoch * stage.steps_per_epoch
            self._steps.run(
                lambda step: self._take_pretraining_step(stage, step),
                until=until,
                num_steps=num_steps,
            )
            loss, self._sums = self._sums.loss / self._sums.weight, LossSums()
            self._pretraining_losses.append(loss)
            logger.info("pre-training epoch finished", extra={"epoch": epoch, "loss": loss})
            for watcher in watchers:
                watcher.pretraining_epoch_done(epoch=epoch, loss=loss)
        self._steps.begin_training()

    def _run_epoch(self) -> None:
        rows, epoch = self._objective.rows, self._steps.epoch
        # In the middle of an epoch its weights no longer tell which candidates it began with.
        if self._self_training is not None and self._steps.done == 0:
            self._lent = self._self_training.choose(self._kept, epoch=epoch)
        batches = plan_batches(
            self._scenario_E,
            positives=np.concatenate([rows.clicks, self._lent]),
            shown=rows.shown,
            config=self._config,
            epoch=epoch,
        )
        self._steps.run(
            lambda step: self._take_step(batches[step]), until=len(batches), num_steps=len(batches)
        )

    def _take_pretraining_step(self, stage: Pretraining, number: int) -> None:
        epoch, step = divmod(number, stage.steps_per_epoch)
        self._seed_torch("pretraining step", epoch + 1, step)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._config.amp):
            loss = stage.loss(epoch=epoch + 1, step=step)
        (total,) = self._steps.compute_gradients(loss)
        if not math.isfinite(total):
            raise TrainingDiverged(
                f"the pre-training loss is {total} in epoch {epoch + 1}, step {step + 1}; the "
                "optimiser step was not taken",
                epoch=0,
                step=number + 1,
                scenario=None,
                hint=_CALMER,
            )
        self._steps.optimiser.step()
        self._sums.add(loss=total, task=total, auxiliary=0.0, weight=1)

    def _take_step(self, rows_B: NDArray[np.int64]) -> None:
        self._seed_torch("step", self._steps.epoch, self._steps.done)
        loss = self._objective(rows_B, epoch=self._steps.epoch, step=self._steps.done)
        total, task, auxiliary = self._steps.compute_gradients(
            loss.total, loss.task_B.sum(), loss.auxiliary
        )
        if not math.isfinite(total):
            raise self._diverged(total, rows_B, loss)
        self._steps.optimiser.step()
        if self._average is not None:
            self._average.update_parameters(self._model)
        self._sums.add(loss=total, task=task, auxiliary=auxiliary, weight=len(rows_B))

    def _seed_torch(self, purpose: str, epoch: int, step: int) -> None:
        # Ranks do not drop out alike; rank 0 draws what one process does.
        of_rank = [rank()] if rank() else []
        seed_torch(self._config.seed, purpose, epoch, step, *of_rank)

    @property
    def _kept(self) -> TwoTower:
        """The model with the weights that are judged, and kept if they are the best."""
        if self._average is None:
            return self._model
        averaged = self._average.module
        assert isinstance(averaged, TwoTower)
        return averaged

    def _close_epoch(self) -> EpochRecord:
        validation = self._validator(self._kept)
        if validation.not_finite is not None:
            raise TrainingDiverged(
                f"after epoch {self._steps.epoch} vectors of scenario {validation.not_finite} are "
                "not finite",
                epoch=self._steps.epoch,
                step=self._steps.done,
                scenario=validation.not_finite,
                hint=_CALMER,
            )
        before = self._epochs[-1].steps if self._epochs else 0
        record = self._sums.record(self._steps.epoch, validation, steps=before + self._steps.done)
        self._epochs.append(record)
        if self._best is None or record.macro_recall > self._best.macro_recall:
            self._best = record
            self._best_counts = validation.code_counts
            self._best_weights = {
                name: weight.detach().cpu().clone()
                for name, weight in self._kept.state_dict().items()
            }
        self._steps.epoch, self._steps.done, self._sums = self._steps.epoch + 1, 0, LossSums()
        return record

    def _diverged(
        self, value: float, rows_B: NDArray[np.int64], loss: BatchLoss
    ) -> TrainingDiverged:
        broken_B = ~gather_rows(loss.task_B.detach()).isfinite().cpu().numpy()
        row = int(rows_B[int(broken_B.argmax())])  # the first one, if only the auxiliary loss broke
        scenario = self._splits.schema.scenarios[int(self._scenario_E[row])]
        epoch, step = self._steps.epoch, self._steps.done + 1
        return TrainingDiverged(
            f"the loss is {value} in epoch {epoch}, step {step}, scenario {scenario} "
            f"({int(broken_B.sum()):,} of {len(rows_B):,} positives); the optimiser step was not "
            "taken",
            epoch=epoch,
            step=step,
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
                "optimiser": self._steps.optimiser.state_dict(),
                "pretraining": self._pretraining_losses,
                "epoch": self._steps.epoch,
                "step": self._steps.done,
                "sums": vars(self._sums),
                "lent": torch.from_numpy(self._lent),
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
        self._steps.optimiser.load_state_dict(state["optimiser"])
        self._pretraining_losses = state["pretraining"]
        self._steps.epoch, self._steps.done = state["epoch"], state["step"]
        self._sums = LossSums(**state["sums"])
        self._lent = state["lent"].numpy()
        self._epochs = [EpochRecord(**record) for record in state["epochs"]]
        if state["best_epoch"]:
            self._best = self._epochs[state["best_epoch"] - 1]
        self._best_weights, self._best_counts = state["best_weights"], state["best_counts"]
        logger.info("resumed", extra={"epoch": self._steps.epoch, "step": self._steps.done})
        for watcher in watchers:
            for number, loss in enumerate(self._pretraining_losses, start=1):
                watcher.pretraining_epoch_done(epoch=number, loss=loss)
            for record in self._epochs:
                watcher.epoch_done(record)


_CALMER = (
    "lower train.optim.lr, or look at the newest day's data; a fixed seed reproduces this step"
)
