"""A search for settings: what it believes, what it never sees, and how it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from perscen.config import BatchConfig, OptimConfig, TrainConfig
from perscen.data.splits import Splits
from perscen.errors import ConfigError, Preempted, TrainingDiverged
from perscen.experiments import tuning
from perscen.experiments.search_history import History, Training, open_history
from perscen.experiments.search_space import Choice, Range, Space
from perscen.experiments.tuning import Budget, Tuned, tune
from perscen.models.config import DssmConfig, EmbeddingConfig
from perscen.recipes import Recipe
from perscen.training.records import EpochRecord
from tests.factories import random_splits

pytestmark = pytest.mark.medium

RECIPE = Recipe(
    DssmConfig(emb=EmbeddingConfig(dim=4, init_std=0.3), widths=(4,)),
    TrainConfig(
        loss="sampled_softmax",
        optim=OptimConfig(lr=1e-3),
        batch=BatchConfig(size=512, unit="positives"),
        max_epochs=4,
        monitor_k=5,
        device="cpu",
    ),
)
SPACE = Space(
    RECIPE,
    {
        "train.optim.lr": Range(low=1e-4, high=1e-1, log=True),
        "model.widths": Choice(choices=((4,), (8, 4))),
    },
)
EAGER = replace(
    SPACE,
    recipe=Recipe(RECIPE.model, RECIPE.train.model_copy(update={"checkpoint_every_s": 1e-9})),
)
"""Writes a checkpoint at every step."""
OF = {"splits": "abc", "recipe": "tiny"}


class Killed(BaseException):
    pass


class StepClock:
    """A clock that a training moves by one second per step; one step makes an epoch here."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        self.now += 1

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        pass

    def epoch_done(self, record: EpochRecord) -> None:
        pass


@dataclass
class Desk:
    """Where a search is made."""

    root: Path
    splits: Splits

    @contextmanager
    def history(self, space: Space = SPACE, **of: str) -> Iterator[History]:
        with open_history(self.root / "tune.db", space, of=OF | of) as history:
            yield history

    def search(self, *, steps: float, space: Space = SPACE, seeds: int = 2) -> Tuned:
        clock = StepClock()
        budget = Budget(minutes=steps / 60, finalists=2, seeds=seeds, clock=clock)
        with self.history(space) as history:
            return tune(
                self.splits,
                space,
                history,
                budget,
                work=self.root / "work",
                watchers=lambda _: (clock,),
            )

    def trainings(self) -> tuple[list[Training], list[Training]]:
        with self.history() as history:
            return history.trials(), history.confirmations()


@pytest.fixture(scope="module")
def splits() -> Splits:
    return random_splits()


@pytest.fixture
def desk(tmp_path: Path, splits: Splits) -> Desk:
    return Desk(tmp_path, splits)


def test_a_search_starts_from_the_recipe_and_trains_the_best_with_further_seeds(desk: Desk):
    found = desk.search(steps=50)
    trials, confirmations = desk.trainings()
    assert trials[0].settings == {"train.optim.lr": 1e-3, "model.widths": (4,)}
    assert len(trials) > 3
    assert {t.seed for t in trials} == {0}
    assert {t.seed for t in confirmations} == {1}
    assert found.complete
    assert found.seeds == (0, 1)
    best = sorted((t for t in trials if t.outcome == "finished"), key=lambda t: -t.value)[:2]
    assert {f.trial for f in found.finalists} == {t.trial for t in best} | {0}
    assert found.judged_by == (1,)
    means = [f.mean(found.judged_by) for f in found.finalists]
    assert means == sorted(means, reverse=True)
    assert {f.trial for f in found.finalists} == {t.trial for t in confirmations}
    assert not (desk.root / "work").exists()


def test_each_training_is_told_as_it_ends(desk: Desk, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="perscen.experiments.tuning")
    desk.search(steps=60)
    trials, further = desk.trainings()
    told = [r for r in caplog.records if hasattr(r, "changed")]
    assert len(told) == len(trials) + len(further)
    assert told[0].message == "trial 0 finished"
    assert told[0].changed == {}  # the recipe itself
    assert told[0].macro_recall == pytest.approx(trials[0].value, abs=1e-5)
    assert told[1].changed["train.optim.lr"] == trials[1].settings["train.optim.lr"]


def test_a_search_that_was_killed_tries_what_it_would_have_tried(tmp_path: Path, splits: Splits):
    whole, broken = Desk(tmp_path / "whole", splits), Desk(tmp_path / "broken", splits)
    for desk in (whole, broken):
        desk.root.mkdir()

    class Killer(StepClock):
        def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
            super().step_done(epoch=epoch, step=step, num_steps=num_steps)
            if self.now == 6:
                raise Killed

    killer = Killer()
    with broken.history() as history:
        budget = Budget(minutes=100, clock=killer)
        work = broken.root / "work"
        with pytest.raises(Killed):
            tune(splits, EAGER, history, budget, work=work, watchers=lambda _: (killer,))
    assert list(broken.root.glob("work/*/checkpoint.pt"))
    before, _ = broken.trainings()
    broken.search(steps=14, seeds=1, space=EAGER)
    whole.search(steps=22, seeds=1)
    resumed, _ = broken.trainings()
    expected, _ = whole.trainings()
    assert 0 < len(before) < len(resumed)
    num = min(len(resumed), len(expected))
    facts = [
        [(t.settings, t.outcome, t.recall, t.epochs) for t in trials[:num]]
        for trials in (resumed, expected)
    ]
    assert facts[0] == facts[1]


def test_a_further_seed_that_was_killed_goes_on_from_its_checkpoint(desk: Desk):
    """Even though trials are made before the finalists get their further seeds."""
    steps: dict[str, list[tuple[int, int]]] = {}

    class Steps(StepClock):
        def __init__(self, *, kill: bool) -> None:
            super().__init__()
            self._kill = kill

        def watch(self, label: str) -> tuple[Steps]:
            self._label = label
            return (self,)

        def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
            super().step_done(epoch=epoch, step=step, num_steps=num_steps)
            steps.setdefault(self._label, []).append((epoch, step))
            if self._kill and "seed" in self._label and epoch > 2:
                raise Killed

    def search(clock: Steps) -> Tuned:
        budget = Budget(minutes=50 / 60, finalists=1, seeds=2, clock=clock)
        with desk.history(EAGER) as history:
            return tune(
                desk.splits, EAGER, history, budget, work=desk.root / "work", watchers=clock.watch
            )

    with pytest.raises(Killed):
        search(Steps(kill=True))
    (killed,) = [label for label in steps if "seed" in label]
    number = len(desk.trainings()[0])
    before = len(steps[killed])
    assert search(Steps(kill=False)).complete
    assert len(desk.trainings()[0]) > number  # and a trial has had its own checkpoint meanwhile
    assert steps[killed][before] > (2, 0)
    assert not (desk.root / "work").exists()


def test_settings_are_trained_once(desk: Desk):
    space = Space(RECIPE, {"model.widths": Choice(choices=((4,), (8, 4)))})
    found = desk.search(steps=200, space=space)
    with desk.history(space) as history:
        tried = [t.settings["model.widths"] for t in history.trials()]
    assert sorted(tried) == [(4,), (8, 4)]
    assert len(found.finalists) == 2
    assert found.complete


def test_settings_that_an_older_search_tried_twice_are_one_finalist(desk: Desk):
    widths = {"model.widths": Choice(choices=((4,), (8, 4)))}
    space = Space(RECIPE, widths)
    with desk.history(space) as history:
        for drawn, recall in (("[4]", 0.3), ("[8, 4]", 0.6), ("[8, 4]", 0.6), ("[4]", 0.3)):
            history._search.enqueue_trial({"model.widths": drawn})
            trial = history._search.ask(space.distributions())
            settings = space.settings(trial.params)
            recalls = {"s0": recall}
            history.end_trial(trial, Training(trial.number, 0, "finished", settings, recalls))
    found = desk.search(steps=0, space=space)
    assert [f.trial for f in found.finalists] == [1, 0]


def test_a_search_that_ran_out_of_time_goes_on_from_its_checkpoint(desk: Desk):
    with pytest.raises(Preempted, match="no training ended within"):
        desk.search(steps=2)
    assert desk.trainings() == ([], [])

    class Steps(StepClock):
        first: tuple[int, int] | None = None

        def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
            self.first = self.first or (epoch, step)
            super().step_done(epoch=epoch, step=step, num_steps=num_steps)

    clock = Steps()
    with desk.history() as history:
        budget = Budget(minutes=4 / 60, clock=clock)
        work = desk.root / "work"
        tune(desk.splits, SPACE, history, budget, work=work, watchers=lambda _: (clock,))
    assert clock.first is not None
    assert clock.first > (2, 0)
    assert desk.trainings()[0][0].settings == {"train.optim.lr": 1e-3, "model.widths": (4,)}


def test_finalists_with_fewer_seeds_do_not_win_by_luck(desk: Desk):
    found = desk.search(steps=8, seeds=50)
    assert not found.complete
    assert all(set(found.seeds) <= set(f.by_seed) for f in found.finalists)


def test_the_seed_that_chose_the_finalists_does_not_judge_them(desk: Desk):
    """Being the best of many by a seed is luck in part, which another seed does not repeat."""
    recalls = {0: (0.30, 0.40, 0.40), 1: (0.60, 0.39, 0.39)}
    with desk.history() as history:
        for number, by_seed in recalls.items():
            trial = history.next_trial(seed=0)
            settings = SPACE.settings(trial.params)
            for seed, recall in enumerate(by_seed):
                training = Training(number, seed, "finished", settings, recall={"s0": recall})
                if seed:
                    history.add_confirmation(training)
                else:
                    history.end_trial(trial, training)
    found = desk.search(steps=0, seeds=3)
    assert found.seeds == (0, 1, 2)
    assert found.judged_by == (1, 2)
    assert [f.trial for f in found.finalists] == [0, 1]


def test_clicks_of_the_test_window_change_nothing(tmp_path: Path, splits: Splits):
    """The values are to the bit those of splits whose test window was never there."""
    directory = tmp_path / "splits"
    splits.save(directory)
    for name in ("test", "test_slices", "served"):
        shutil.rmtree(directory / name)
    hidden = Splits.open(directory, hide_test=True)
    assert not len(hidden.test.user)
    later = np.array(hidden.histories.times_ms) >= 8 * 86_400_000
    assert later.any()
    histories = replace(
        hidden.histories, items=np.where(later, 2, hidden.histories.items).astype(np.int32)
    )
    values = []
    for place, data in (("with", splits), ("without", replace(hidden, histories=histories))):
        desk = Desk(tmp_path / place, data)
        desk.root.mkdir()
        desk.search(steps=6, seeds=1)
        values.append([t.recall for t in desk.trainings()[0]])
    assert values[0] == values[1]
    assert values[0]


def test_a_trial_behind_the_median_is_stopped_early(desk: Desk):
    with desk.history() as history:
        for value in (0.5, 0.4, 0.6, 0.5):
            trial = history.next_trial(seed=0)
            for epoch in range(1, 9):
                trial.report(value, epoch)
            recall = {"a": value}
            history.end_trial(trial, Training(trial.number, 0, "finished", trial.params, recall))
        trial = history.next_trial(seed=0)
        stopped = []
        for epoch in range(1, 9):
            trial.report(0.1, epoch)
            stopped.append(trial.should_prune())
    assert stopped == [False] * 3 + [True] * 5


def test_trials_that_diverge_or_cannot_be_trained_are_passed_over(desk: Desk):
    space = Space(
        RECIPE,
        {
            "train.optim.lr": Choice(choices=(1e-3, 1e30)),
            "train.batch.unit": Choice(choices=("positives", "pairs")),
            "train.batch.size": Choice(choices=(512, 2)),
        },
    )
    found = desk.search(steps=40, space=space, seeds=1)
    with desk.history(space) as history:
        outcomes = {t.outcome for t in history.trials()}
    assert {"finished", "diverged", "impossible"} <= outcomes
    assert found.winner.settings["train.optim.lr"] == 1e-3


def test_a_recipe_that_cannot_be_trained_here_is_said_at_once(desk: Desk):
    train = RECIPE.train.model_copy(update={"monitor_k": 10_000})
    space = replace(SPACE, recipe=Recipe(RECIPE.model, train))
    with pytest.raises(ConfigError, match=r"train\.monitor_k is 10,000"):
        desk.search(steps=10, space=space)


def test_a_recipe_that_diverges_is_said_at_once_and_tried_again_by_a_later_call(desk: Desk):
    train = RECIPE.train.model_copy(update={"optim": OptimConfig(lr=1e30)})
    space = Space(
        Recipe(RECIPE.model, train), {"train.optim.lr": Choice(choices=(1e30, 1e-3, 1e-4))}
    )
    for _ in range(2):
        with pytest.raises(TrainingDiverged, match=r"not finite|is nan|is inf"):
            desk.search(steps=40, space=space)
        with desk.history(space) as history:
            assert history.trials() == []


def test_settings_that_all_diverge_with_a_further_seed_are_told_as_that(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    def diverge(*_: object, **__: object) -> None:
        raise TrainingDiverged("the loss is nan", epoch=1, step=1, scenario=None)

    space = Space(RECIPE, {"model.widths": Choice(choices=((4,), (8, 4)))})
    desk.search(steps=200, space=space, seeds=1)
    monkeypatch.setattr(tuning, "fit", diverge)
    with pytest.raises(ConfigError, match="with every seed: 2 finished, 2 diverged"):
        desk.search(steps=200, space=space, seeds=2)


def test_trainings_that_ended_without_a_result_are_told_as_that(desk: Desk):
    with desk.history() as history:
        for outcome in ("diverged", "diverged", "impossible"):
            trial = history.next_trial(seed=0)
            settings = SPACE.settings(trial.params)
            history.end_trial(trial, Training(trial.number, 0, outcome, settings, {}))
    with pytest.raises(ConfigError, match="2 diverged, 1 impossible"):
        desk.search(steps=0)
