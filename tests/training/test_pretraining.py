"""A stage before the first epoch: told of, interrupted, resumed and stopped as the training is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perscen.data.splits import Splits
from perscen.errors import ConfigError, Preempted, TrainingDiverged
from perscen.models.contrast import ScenarioContrast
from perscen.models.sass import Sass
from perscen.training.loop import Trained, train
from tests.factories import random_splits
from tests.models.test_sass import sass
from tests.training.test_resume import _After
from tests.training.towers import checkpoint, equal, quick, weights

pytestmark = pytest.mark.medium

PASSES, STEPS = 2, 3
CONFIG = quick(max_epochs=2, batch={"size": 48, "unit": "positives"})


@pytest.fixture(scope="module")
def splits() -> Splits:
    return random_splits()


def model(splits: Splits, *, seed: int = 0, **choices: Any) -> Sass:
    torch.manual_seed(seed)
    # 30 items, 20 users: three steps of ten items each.
    stage = {"pretrain_epochs": PASSES, "pretrain_batch": 10, "dropout": 0.1}
    return sass(splits.schema, **stage | choices)


class Notes:
    """Writes down what a watcher is told."""

    def __init__(self, watched: Sass | None = None) -> None:
        self.steps: list[tuple[int, int, int]] = []
        self.passes: list[tuple[int, float]] = []
        self.epochs: list[int] = []
        self.after: dict[tuple[int, int], dict[str, Tensor]] = {}
        self._watched = watched

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        self.steps.append((epoch, step, num_steps))
        if self._watched is not None:
            self.after[epoch, step] = weights(self._watched)

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        self.passes.append((epoch, loss))

    def epoch_done(self, record: Any) -> None:
        self.epochs.append(record.epoch)


@pytest.fixture(scope="module")
def undisturbed(splits: Splits) -> tuple[Trained, dict[str, Tensor]]:
    towers = model(splits)
    return train(towers, splits, CONFIG), weights(towers)


def test_it_comes_before_the_first_epoch_and_its_losses_are_told(
    splits: Splits, undisturbed: tuple[Trained, dict[str, Tensor]]
) -> None:
    notes = Notes()
    trained = train(model(splits), splits, CONFIG, watchers=[notes])
    total = PASSES * STEPS
    assert notes.steps[:total] == [(0, step, total) for step in range(1, total + 1)]
    assert notes.steps[total][:2] == (1, 1)
    assert notes.passes == list(enumerate(trained.pretraining, start=1))
    assert len(trained.pretraining) == PASSES
    assert notes.epochs == [1, 2]
    assert trained == undisturbed[0]


def test_the_first_epoch_starts_from_its_weights_with_a_fresh_optimiser(splits: Splits) -> None:
    towers = model(splits)
    notes = Notes(towers)
    train(towers, splits, CONFIG, watchers=[notes])
    before, start = weights(model(splits)), notes.after[0, PASSES * STEPS]
    assert not equal(before, start)
    again = model(splits)
    again.load_state_dict(start)
    rerun = Notes(again)
    train(again, splits, CONFIG, watchers=[rerun], pretrain=False)
    assert rerun.steps[0][:2] == (1, 1), "who starts from trained weights is not pre-trained"
    assert equal(rerun.after[1, 1], notes.after[1, 1])


@pytest.mark.parametrize("optim", [{"lr": 0.05}, {"lr": 0.05, "weight_average": 0.9}])
def test_without_it_the_training_is_that_of_sass_base(splits: Splits, optim: Any) -> None:
    config = quick(max_epochs=1, optim=optim)
    base, skipped = model(splits, pretrain=False), model(splits)
    trained = train(base, splits, config)
    assert train(skipped, splits, config, pretrain=False) == trained
    assert trained.pretraining == ()
    assert equal(weights(base), weights(skipped))
    pretrained = model(splits)
    assert train(pretrained, splits, config) != trained


@pytest.mark.parametrize("steps", [1, STEPS, STEPS + 2, PASSES * STEPS, PASSES * STEPS + 1])
def test_interrupted_anywhere_it_ends_as_if_it_had_not_been_to_the_bit(
    splits: Splits,
    tmp_path: Path,
    steps: int,
    undisturbed: tuple[Trained, dict[str, Tensor]],
) -> None:
    said = r"in the pre-training after step \d of 6; a checkpoint was"
    with pytest.raises(Preempted, match=said if steps <= PASSES * STEPS else "in epoch 1 after"):
        train(model(splits), splits, CONFIG, checkpoint=checkpoint(tmp_path), stop=_After(steps))
    resumed, notes = model(splits, seed=9), Notes()
    trained = train(resumed, splits, CONFIG, checkpoint=checkpoint(tmp_path), watchers=[notes])
    assert trained == undisturbed[0]
    assert equal(weights(resumed), undisturbed[1])
    assert notes.passes == list(enumerate(trained.pretraining, start=1)), "those before as well"


def test_a_loss_that_is_not_finite_stops_it_before_the_weights_are_spoilt(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers = model(splits)
    whole = ScenarioContrast.loss

    def broken(stage: ScenarioContrast, *, epoch: int, step: int) -> Tensor:
        loss = whole(stage, epoch=epoch, step=step)
        return loss * float("nan") if (epoch, step) == (2, 1) else loss

    monkeypatch.setattr(ScenarioContrast, "loss", broken)
    with pytest.raises(
        TrainingDiverged, match="the pre-training loss is nan in epoch 2, step 2"
    ) as it:
        train(towers, splits, CONFIG)
    assert (it.value.epoch, it.value.step, it.value.scenario) == (0, STEPS + 2, None)
    assert all(weight.isfinite().all() for weight in weights(towers).values())


def test_what_it_lacks_is_said_before_anything_is_trained(splits: Splits) -> None:
    notes = Notes()
    shown = splits.impressions
    nothing = type(shown)(**{name: values[:0] for name, values in vars(shown).items()})
    empty = type(splits)(**{**vars(splits), "impressions": nothing})
    with pytest.raises(ConfigError, match=r"model\.pretrain: among the 0 impressions"):
        train(model(splits), empty, CONFIG, watchers=[notes])
    assert notes.steps == []
