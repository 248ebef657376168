"""What a search has tried and found: one SQLite file, which a later call goes on from.

Optuna keeps two studies in it: the trials of the search, and the trainings of the best few with
further seeds.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from perscen.errors import ArtifactError, ConfigError
from perscen.experiments.search_space import Space
from perscen.seeding import generator
from perscen.staging import is_full, storage_full
from perscen.training.records import EpochRecord

Outcome = Literal["finished", "pruned", "diverged", "impossible"]

_STARTUP_TRIALS: Final = 8
"""Drawn at random before the sampler has anything to go by."""
_UNPRUNED_TRIALS, _JUDGED_FROM_EPOCH = 4, 4
"""Trials run to their end before any is stopped, and the first epoch one may be stopped at."""
_PROPOSALS: Final = 32
"""Settings proposed in a row that were tried before, after which nothing new is expected."""
_SEARCH, _CONFIRMATION = "search", "confirmation"
_OF, _TRAINING = "of", "training"
_ENDED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
_FIRST_TABLE: Final = "studies"
"""That of Optuna which is there even when the making of its tables was broken off."""


@dataclass(frozen=True)
class Training:
    """One training of the history.

    Attributes:
        trial: Whose settings it had.
        outcome: ``pruned`` was worse than the median trial at the same epoch, ``diverged`` had a
            loss that is not finite, ``impossible`` had settings that do not go together.
        recall: Validation recall per scenario at the best epoch, in [0, 1]; empty unless finished.
        seconds: Of training, by the clock; of its last stretch only when it was interrupted.
        settings: The values of what the search varies.
    """

    trial: int
    seed: int
    outcome: Outcome
    settings: dict[str, Any]
    recall: dict[str, float]
    epochs: int = 0
    best_epoch: int = 0
    seconds: float = 0.0

    @property
    def value(self) -> float:
        """Unweighted mean of the recall over scenarios."""
        return sum(self.recall.values()) / len(self.recall)


class History:
    """Trials and their confirmations, in the order they ended."""

    def __init__(self, storage: optuna.storages.BaseStorage, space: Space) -> None:
        self._space = space
        self._storage = storage
        self._search, self._confirmation = map(self._study, (_SEARCH, _CONFIRMATION))

    def belongs_to(self, of: Mapping[str, str], *, path: Path) -> None:
        """Take note of what the search is on, or check that it is the same.

        A search on something else in which no trial ended has nothing to lose: it begins anew.

        Raises:
            ConfigError: It is a search on something else.
        """
        known = self._search.user_attrs.get(_OF)
        if known is not None and known != of and not self._search.get_trials(states=_ENDED):
            # Its interrupted trial may have settings that there are no more.
            optuna.delete_study(study_name=_SEARCH, storage=self._storage)
            self._search, known = self._study(_SEARCH), None
        if known is None:
            self._search.set_user_attr(_OF, dict(of))
            return
        if other := [name for name in of if known.get(name) != of[name]]:
            told = "; ".join(
                f"{name} {_short(known.get(name, 'unknown'))}, not {_short(of[name])}"
                for name in other
            )
            raise ConfigError(
                f"{path} is a search with other {' and '.join(other)}: {told}",
                hint="its trials cannot be compared with new ones: give --study another file",
            )

    def next_trial(self, *, seed: int) -> optuna.Trial | None:
        """Return the next trial to run: an interrupted one again, the recipe itself, or a new one.

        Settings that were tried are not tried again, as they would come to the same: None when
        nothing else is proposed.

        What is drawn follows from the seed and the trials that ended, so a search that was killed
        goes on with the settings it would have tried.
        """
        ended = self.trials()
        tried = [training.settings for training in ended]
        self._queue(tried)
        draws = generator(seed, "search", len(ended))
        for _ in range(_PROPOSALS):
            self._search.sampler = optuna.samplers.TPESampler(
                seed=int(draws.integers(2**32)),
                n_startup_trials=_STARTUP_TRIALS,
                multivariate=True,
            )
            trial = self._search.ask(self._space.distributions())
            if self._space.settings(trial.params) not in tried:
                return trial
            self._search.tell(trial, state=TrialState.FAIL)  # tells the sampler nothing
        return None

    def _queue(self, tried: Sequence[Mapping[str, Any]]) -> None:
        """See to it that the recipe is tried, and then what was interrupted."""
        broken = self._search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if not self._search.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if self._space.settings(self._space.start()) not in tried:
                self._search.enqueue_trial(self._space.start())
            else:
                # Settings are stored one by one: a trial without all of them is drawn once more.
                for trial in broken:
                    if trial.params.keys() == self._space.varied.keys():
                        self._search.enqueue_trial(trial.params)
        for trial in broken:
            self._search.tell(trial.number, state=TrialState.FAIL)

    def end_trial(self, trial: optuna.Trial, training: Training) -> None:
        """Keep what became of a trial."""
        trial.set_user_attr(_TRAINING, _facts(training))
        if training.outcome == "finished":
            self._search.tell(trial, training.value)
        else:
            self._search.tell(trial, state=TrialState.PRUNED)

    def add_confirmation(self, training: Training) -> None:
        """Keep a training of a trial's settings with a further seed."""
        finished = training.outcome == "finished"
        self._confirmation.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if finished else TrialState.PRUNED,
                value=training.value if finished else None,
                user_attrs={_TRAINING: _facts(training), _OF: training.trial},
            )
        )

    def trials(self) -> list[Training]:
        """Return the trials that ended, by number; the first is the recipe itself."""
        return [
            self._training(trial, trial=trial.number, drawn=trial.params)
            for trial in self._search.get_trials(deepcopy=False)
            if trial.state in _ENDED
        ]

    def confirmations(self) -> list[Training]:
        """Return the trainings with further seeds, in the order they ended."""
        drawn = {trial.number: trial.params for trial in self._search.get_trials(deepcopy=False)}
        return [
            self._training(trial, trial=number, drawn=drawn[number])
            for trial in self._confirmation.get_trials(deepcopy=False)
            for number in [trial.user_attrs[_OF]]
        ]

    def _study(self, name: str) -> optuna.Study:
        return optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_JUDGED_FROM_EPOCH
            ),
        )

    def _training(
        self, kept: optuna.trial.FrozenTrial, *, trial: int, drawn: Mapping[str, Any]
    ) -> Training:
        facts = kept.user_attrs[_TRAINING]
        return Training(trial=trial, settings=self._space.settings(drawn), **facts)


class Pruning:
    """Tells Optuna of each epoch, and stops the training when it says so."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        """Do nothing: epochs are judged."""

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        """Do nothing: nothing is retrieved yet."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Report the epoch.

        Raises:
            TrialPruned: The trial is behind the others at this epoch.
        """
        self._trial.report(record.macro_recall, record.epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned(str(record.epoch))


@contextmanager
def open_history(path: Path, space: Space, *, of: Mapping[str, str]) -> Iterator[History]:
    """Give the history in a file, which is made when there is none.

    Args:
        path: The SQLite file.
        space: What the search varies.
        of: What the trials' values follow from besides their settings, by name: another search is
            one with another value of any.

    Raises:
        ConfigError: The file is the history of another search.
        ArtifactError: The file is no such history; it is left as it was.
        StorageFull: There is no room for it, or for what is kept in it.
    """
    optuna.logging.disable_default_handler()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_tables(path)
    with _told_when_full(path), _storage(path) as storage:
        history = History(storage, space)
        history.belongs_to({**of, "space": space.to_json()}, path=path)
        yield history


@contextmanager
def _storage(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as exc:
        if is_full(_cause(exc)):
            raise
        raise _no_history(path, str(exc).splitlines()[0]) from exc
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _check_tables(path: Path) -> None:
    """Check that a database is Optuna's before Optuna, which would put its tables into any.

    Raises:
        ArtifactError: It is something else's, or no database.
    """
    if not path.exists():
        return
    try:
        # To be written, as one that a kill left in the middle of a change is mended when read.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as database:
            found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = sorted(name for (name,) in found)
    except sqlite3.Error as exc:
        raise _no_history(path, str(exc)) from exc
    if tables and _FIRST_TABLE not in tables:
        raise _no_history(path, f"its tables are {_short(', '.join(tables))}")


@contextmanager
def _told_when_full(path: Path) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as exc:
        if is_full(_cause(exc)):
            raise storage_full(_cause(exc), path) from exc
        raise


def _cause(error: Exception) -> Exception:
    """Return what SQLite said, which Optuna and SQLAlchemy wrap in words of their own."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _no_history(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is not the history of a search: {why}",
        hint="give --study another file, or one that `perscen tune` made",
    )


def _facts(training: Training) -> dict[str, Any]:
    return {
        name: getattr(training, name)
        for name in ("seed", "outcome", "recall", "epochs", "best_epoch", "seconds")
    }


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
