"""A search for better settings, judged on the validation window alone, within a budget of time.

Three stages: the recipe itself is trained, then settings that Optuna proposes, each with one seed
and stopped at the epoch where it falls behind the median; then the best few, and the recipe, with
further seeds. The best of one seed is the luckiest of many, so these are judged by the further
seeds alone.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import optuna

from perscen.data.splits import Splits
from perscen.digests import json_digest
from perscen.errors import ConfigError, Preempted, TrainingDiverged
from perscen.experiments.search_history import History, Pruning, Training
from perscen.experiments.search_space import Space
from perscen.models.families import make_model
from perscen.recipes import with_settings
from perscen.seeding import seed_torch
from perscen.training.checkpoint import Checkpoint
from perscen.training.loop import Trained
from perscen.training.loop import train as fit
from perscen.training.steps import Watcher

logger = logging.getLogger(__name__)

_LARGEST_RESERVE: Final = 0.5
"""Share of the budget that is kept for further seeds at most."""
_DIGITS: Final = 16


@dataclass(frozen=True)
class Budget:
    """How long a search may take, and how sure it must be.

    Attributes:
        minutes: After which it stops, wherever it is; a later call goes on from there.
        finalists: The best few of one seed that are trained with further seeds, beside the recipe.
        seeds: Of each finalist, the first one included.
        clock: Seconds, from any start.
    """

    minutes: float
    finalists: int = 3
    seeds: int = 3
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Finalist:
    """One of the best few, with what it reached by seed."""

    trial: int
    settings: dict[str, Any]
    by_seed: dict[int, Training]

    def mean(self, seeds: Sequence[int]) -> float:
        """Return the mean over some of its seeds of the macro recall, in [0, 1]."""
        return fmean(self.by_seed[seed].value for seed in seeds)


@dataclass(frozen=True)
class Tuned:
    """What a search has found so far.

    Attributes:
        finalists: The best first, by the mean over ``judged_by``; the recipe is one of them.
        seeds: Those that all finalists were trained with.
        judged_by: Those of ``seeds`` that had no part in choosing the finalists; the one that had,
            as long as there is no other.
        complete: Whether all finalists have all their seeds.
    """

    finalists: tuple[Finalist, ...]
    seeds: tuple[int, ...]
    judged_by: tuple[int, ...]
    complete: bool

    @property
    def winner(self) -> Finalist:
        """The best of the finalists."""
        return self.finalists[0]


def tune(
    splits: Splits,
    space: Space,
    history: History,
    budget: Budget,
    *,
    work: Path,
    follows_from: Sequence[str] = (),
    watchers: Callable[[str], Sequence[Watcher]] = lambda _: (),
) -> Tuned:
    """Search until the budget is used up, and return the best settings found.

    Args:
        splits: With or without a test window, which is not looked at.
        space: The recipe, and what is varied of it.
        history: What was tried before; it grows.
        budget: Time, finalists and seeds.
        work: Directory for the checkpoints of trainings that are interrupted.
        follows_from: Splits and code: a checkpoint of others is not taken up.
        watchers: Gives those who are told of a training, by what it is called.

    Raises:
        ConfigError: The recipe itself cannot be trained on these splits; or trainings ended, but
            there are no settings that trained to their end.
        TrainingDiverged: The recipe itself did, with its own seed.
        Preempted: Not even the recipe was trained to its end; a later call goes on.
    """
    search = _Search(splits, space, history, budget, work, follows_from, watchers)
    try:
        search.try_settings()
        search.confirm()
    except Preempted:
        logger.info("the budget is used up; a later call goes on from here")
    found = search.standing()
    if not found.finalists:
        if ended := [*history.trials(), *history.confirmations()]:
            outcomes = Counter(training.outcome for training in ended)
            told = ", ".join(f"{num} {outcome}" for outcome, num in outcomes.items())
            raise ConfigError(
                f"none of the settings tried trained to its end with every seed: {told}",
                hint="give a recipe that trains on these splits, and --study another file",
            )
        raise Preempted(
            f"no training ended within {budget.minutes:g} minutes; a checkpoint was written",
            hint="run it again with the same --study: it goes on from there",
        )
    return found


class _Search:
    def __init__(
        self,
        splits: Splits,
        space: Space,
        history: History,
        budget: Budget,
        work: Path,
        follows_from: Sequence[str],
        watchers: Callable[[str], Sequence[Watcher]],
    ) -> None:
        self._splits = splits
        self._space = space
        self._history = history
        self._budget = budget
        self._work = work
        self._follows_from = follows_from
        self._watchers = watchers
        self._seed = space.recipe.train.seed
        self._deadline = budget.clock() + 60 * budget.minutes

    def try_settings(self) -> None:
        """Run trials while there are new ones, and time enough for the further seeds after them."""
        while self._left_s() > self._reserve_s():
            trial = self._history.next_trial(seed=self._seed)
            if trial is None:
                logger.info("what is proposed was tried before: there is little left to try")
                return
            pruning = Pruning(trial)
            settings = self._space.settings(trial.params)
            training = self._train(trial.number, settings, self._seed, pruning)
            self._history.end_trial(trial, training)

    def confirm(self) -> None:
        """Train the finalists with further seeds, all with one seed before any with the next."""
        while missing := self._missing():
            if self._left_s() <= 0:
                return
            finalist, seed = missing[0]
            self._history.add_confirmation(self._train(finalist.trial, finalist.settings, seed))
        shutil.rmtree(self._work, ignore_errors=True)  # there is nothing to go on with

    def standing(self) -> Tuned:
        """Return the finalists as they stand; nobody wins by a lucky seed, or by fewer seeds."""
        finalists = self._finalists()
        seeds = tuple(s for s in self._seeds() if all(s in f.by_seed for f in finalists))
        judged_by = tuple(s for s in seeds if s != self._seed) or seeds
        ranked = sorted(finalists, key=lambda f: (-f.mean(judged_by), f.trial))
        return Tuned(tuple(ranked), seeds, judged_by, complete=len(seeds) == self._budget.seeds)

    def _finalists(self) -> list[Finalist]:
        finished = [t for t in self._history.trials() if t.outcome == "finished"]
        # Older searches tried some settings twice.
        first = {json_digest(t.settings): t for t in reversed(finished)}
        best = sorted(first.values(), key=lambda t: (-t.value, t.trial))
        spoilt = {t.trial for t in self._history.confirmations() if t.outcome != "finished"}
        sound = [t for t in best if t.trial not in spoilt]
        chosen = sound[: self._budget.finalists]
        recipe = [t for t in sound[self._budget.finalists :] if not self._space.changes(t.settings)]
        further = self._history.confirmations()
        return [
            Finalist(
                first.trial,
                first.settings,
                {first.seed: first, **{t.seed: t for t in further if t.trial == first.trial}},
            )
            for first in [*chosen, *recipe[:1]]
        ]

    def _seeds(self) -> range:
        return range(self._seed, self._seed + self._budget.seeds)

    def _missing(self) -> list[tuple[Finalist, int]]:
        finalists = self._finalists()
        return [(f, seed) for seed in self._seeds() for f in finalists if seed not in f.by_seed]

    def _left_s(self) -> float:
        return self._deadline - self._budget.clock()

    def _reserve_s(self) -> float:
        took = [t.seconds for t in self._history.trials() if t.outcome == "finished"]
        needed = (len(self._missing()) + 1) * fmean(took) if took else 0.0  # the next trial's too
        return min(needed, _LARGEST_RESERVE * 60 * self._budget.minutes)

    def _train(
        self, number: int, settings: Mapping[str, Any], seed: int, *watchers: Watcher
    ) -> Training:
        """Train once and say how it went; only being out of time, or a fault of ours, is raised."""
        label = f"trial {number}" + (f", seed {seed}" if seed != self._seed else "")
        # Each has its own: trials come and go while a finalist's further seed waits to go on.
        place = self._work / json_digest([settings, seed])[:_DIGITS]
        training = Training(number, seed, "finished", dict(settings), recall={})
        began = self._budget.clock()
        try:
            trained = self._fit(settings, seed, [*self._watchers(label), *watchers], place)
            training = replace(
                training,
                recall=trained.best.recall,
                epochs=len(trained.epochs),
                best_epoch=trained.best.epoch,
            )
        except optuna.TrialPruned as exc:
            training = replace(training, outcome="pruned", epochs=int(str(exc)))
        except TrainingDiverged as exc:
            if seed == self._seed and not self._space.changes(settings):
                raise
            logger.warning("%s diverged: %s", label, exc.message)
            training = replace(training, outcome="diverged", epochs=exc.epoch)
        except ConfigError as exc:
            if not self._space.changes(settings):
                raise
            logger.warning("%s cannot be trained: %s", label, exc.message)
            training = replace(training, outcome="impossible")
        training = replace(training, seconds=self._budget.clock() - began)
        shutil.rmtree(place, ignore_errors=True)  # its checkpoint is of no use any more
        self._log(label, training)
        return training

    def _fit(
        self, settings: Mapping[str, Any], seed: int, watchers: Sequence[Watcher], place: Path
    ) -> Trained:
        model_config, train_config = with_settings(
            self._space.recipe, {**settings, "train.seed": seed}, origin="the search"
        )
        seed_torch(seed, "init")
        model = make_model(self._splits.schema, model_config)
        model.start_from(self._splits)
        facts = [*self._follows_from, model_config.model_dump(), train_config.model_dump()]
        checkpoint = Checkpoint(
            place, fingerprint=json_digest(facts), every_s=train_config.checkpoint_every_s
        )
        return fit(
            model,
            self._splits,
            train_config,
            checkpoint=checkpoint,
            stop=lambda: self._left_s() <= 0,
            watchers=watchers,
        )

    def _log(self, label: str, training: Training) -> None:
        facts: dict[str, Any] = {
            "changed": self._space.changes(training.settings),
            "epochs": training.epochs,
        }
        if training.outcome == "finished":
            facts["macro_recall"] = round(training.value, 5)
        facts["minutes_left"] = int(self._left_s() // 60)
        logger.info("%s %s", label, training.outcome, extra=facts)
