"""Runs, one row with one seed each, and the directory in which finished ones are kept.

``WORK/<splits>/<row>-<settings>-<seed>/`` holds ``per_user.parquet`` and ``facts.json``. It appears
whole or not at all, so a run that was stopped is one that was never made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
from polars.exceptions import PolarsError
from pydantic import ValidationError

from perscen.errors import ArtifactError
from perscen.experiments.rows import Row
from perscen.experiments.settings import Settings
from perscen.manifests import Record
from perscen.staging import staged
from perscen.training.records import EpochRecord

_DIGITS: Final = 12
_SCORES: Final = "per_user.parquet"
_FACTS: Final = "facts.json"


@dataclass(frozen=True)
class Run:
    """One row with one seed."""

    row: Row
    settings: Settings
    seed: int

    @property
    def key(self) -> str:
        """What the run is known by, in the work directory and in MLflow."""
        return f"{self.row.name}-{self.settings.digest[:_DIGITS]}-{self.seed}"

    def __str__(self) -> str:
        return f"{self.row.name} seed {self.seed}"


class RunFacts(Record):
    """What is known of a finished run beside its scores.

    Attributes:
        settings: The whole tree it was made with.
        best_epoch: None without training, as what follows.
        train_cpu_s: Seconds of CPU time the training took, validation included.
        revision: Of the code, where that is known.
        epochs: The training curve.
    """

    row: str
    seed: int
    settings: dict[str, Any]
    splits_digest: str
    revision: str | None = None
    best_epoch: int | None = None
    train_cpu_s: float | None = None
    num_parameters: int | None = None
    epochs: tuple[EpochRecord, ...] = ()

    @property
    def validation_recall(self) -> float | None:
        """Macro recall of the validation window at the best epoch, at ``train.monitor_k``."""
        of_best = [e.macro_recall for e in self.epochs if e.epoch == self.best_epoch]
        return of_best[0] if of_best else None


class Work:
    """The finished runs on one splits artifact."""

    def __init__(self, directory: Path, *, splits_digest: str) -> None:
        self.splits_digest = splits_digest
        self.directory = directory / splits_digest[:_DIGITS]

    def place(self, run: Run) -> Path:
        """Return where a run is kept once it is finished."""
        return self.directory / run.key

    def facts(self, run: Run) -> RunFacts | None:
        """Return what is known of a finished run; None when it is yet to be made.

        Raises:
            ArtifactError: What lies there is not what this class writes.
        """
        path = self.place(run) / _FACTS
        if not path.exists():
            return None
        try:
            facts = RunFacts.model_validate_json(path.read_bytes())
        except ValidationError as exc:
            raise _unreadable(path, exc.errors()[0]["msg"]) from exc
        return facts if run.settings.agree_with(facts.settings) else None

    def scores(self, run: Run) -> pl.DataFrame:
        """Return the per-user scores of a finished run.

        Raises:
            ArtifactError: They are missing or damaged.
        """
        path = self.scores_file(run)
        try:
            return pl.read_parquet(path)
        except (OSError, PolarsError) as exc:
            raise _unreadable(path, str(exc).splitlines()[0]) from exc

    def scores_file(self, run: Run) -> Path:
        """Return where the per-user scores of a finished run lie."""
        return self.place(run) / _SCORES

    def keep(self, run: Run, scores: pl.DataFrame, facts: RunFacts) -> None:
        """Keep a finished run.

        Args:
            run: Whose result it is.
            scores: As of :func:`perscen.evaluation.evaluate.score_all`; the model's name is left
                out, it is the row's.
            facts: What else is known.

        Raises:
            StorageFull: There is no room.
        """
        with staged(self.place(run)) as scratch:
            scores.drop("model", strict=False).write_parquet(scratch / _SCORES)
            (scratch / _FACTS).write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _unreadable(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is not readable: {reason}",
        hint=f"remove {path.parent}, and the run is made again",
    )


def runs_of(rows: Iterable[tuple[Row, Settings]], *, seeds: int) -> list[Run]:
    """Return the runs in the order they are made.

    What needs no training comes first; then seed by seed, so that a comparison that is stopped has
    about as many seeds of each row. A ranker that leaves nothing to chance has one run.
    """
    rows = list(rows)
    untrained = [
        Run(row, settings, seed)
        for row, settings in rows
        if row.family is None
        for seed in range(seeds if row.chance else 1)
    ]
    trained = [(row, settings) for row, settings in rows if row.family is not None]
    return untrained + [Run(row, s, seed) for seed in range(seeds) for row, s in trained]


def seconds_left(
    todo: Sequence[Run], known: Sequence[RunFacts], *, jobs: int, spent_s: float, pace: float = 1.0
) -> float | None:
    """Return about how many seconds the unfinished runs take; None when nothing is known.

    A run is taken to cost what the same row's finished ones cost, else the mean of all.

    Args:
        todo: Runs that are under way or yet to come.
        known: Facts of finished runs.
        jobs: How many are made at a time.
        spent_s: Seconds those under way have taken already, all together.
        pace: Seconds that pass per second of CPU time; above 1 where the machine is shared.
    """
    costs: dict[str, list[float]] = {}
    for facts in known:
        if facts.train_cpu_s is not None:
            costs.setdefault(facts.row, []).append(facts.train_cpu_s)
    means = {row: sum(mine) / len(mine) for row, mine in costs.items()}
    trained = [run for run in todo if run.row.family is not None]
    if not means:
        return None if trained else 0.0
    usual = sum(means.values()) / len(means)
    total = sum(means.get(run.row.name, usual) for run in trained)
    return max(pace * total - spent_s, 0.0) / jobs
