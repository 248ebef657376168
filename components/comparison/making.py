"""Making the runs of a comparison that are missing, in sight of a person and of MLflow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import polars as pl

from components.adapters.comparisons import ComparisonLog
from components.comparison.progress import runs_bar
from components.comparison.results import metric_names
from components.exit_codes import EXIT_CODES, OUR_BUG
from components.lock import alone
from components.revision import revision
from components.store import payload_digest
from perscen.experiments.cells import cells_of
from perscen.experiments.making import PinnedSplits
from perscen.experiments.processes import Outcome, Underway, default_jobs, make_runs
from perscen.experiments.runs import Run, RunFacts, Work, seconds_left
from perscen.experiments.significance import MACRO

logger = logging.getLogger(__name__)

_CODES: Final = {kind.__name__: code for kind, code in EXIT_CODES.items()}


def make_missing(
    runs: Sequence[Run], splits: PinnedSplits, work: Work, *, jobs: int | None, run_id: str
) -> list[Outcome]:
    """Make the runs that are not finished, log all in MLflow, and return those that failed.

    Args:
        runs: In the order to make them.
        splits: What they are made on.
        work: Where finished runs are kept; one process at a time makes runs there.
        jobs: How many at a time; None for what the machine bears.
        run_id: Whose attempt this is.

    Raises:
        ServiceUnavailable: Another process is making runs in the same place.
    """
    hint = "wait for it, or give --work another directory"
    with alone(work.directory, what=work.directory, run_id=run_id, wait_s=0, hint=hint):
        log = ComparisonLog()
        known: list[RunFacts] = []
        waiting: list[Run] = []
        for run in runs:
            facts = work.facts(run)
            if facts is None:
                waiting.append(run)
            else:
                known.append(facts)
                _log(log, run, facts, work)
        return _make(waiting, known, log, splits, work, jobs=jobs or default_jobs())


def _make(
    waiting: list[Run],
    known: list[RunFacts],
    log: ComparisonLog,
    splits: PinnedSplits,
    work: Work,
    *,
    jobs: int,
) -> list[Outcome]:
    failures: list[Outcome] = []
    here: list[Outcome] = []
    left, total = list(waiting), len(waiting) + len(known)
    with runs_bar(total=total, done=len(known)) as bar:

        def time_left(underway: Sequence[Underway]) -> float | None:
            spent_s = sum(one.spent_s for one in underway)
            return seconds_left(left, known, jobs=jobs, spent_s=spent_s, pace=_pace(here))

        def watch(underway: Sequence[Underway]) -> None:
            doing = ", ".join(f"{one.run} {one.doing}" for one in underway)
            bar.show(doing, left=_duration(time_left(underway)))

        bar.say(f"{len(known)} of {total} runs are finished, {jobs} at a time for the others")
        made = make_runs(waiting, splits, work, jobs=jobs, revision=revision(), watch=watch)
        for outcome in made:
            left.remove(outcome.run)
            if outcome.facts is None:
                failures.append(outcome)
            else:
                known.append(outcome.facts)
                here.append(outcome)
                _log(log, outcome.run, outcome.facts, work)
            place = f"{total - len(left)} of {total}"
            rest = f", about {_duration(time_left([]))} left" if left else ""
            bar.step(f"{_told(outcome, work)} ({place}{rest})")
    return failures


def tell(failures: Sequence[Outcome]) -> int:
    """Log why runs failed, and return the exit code of the first reason."""
    codes = []
    for outcome in failures:
        assert outcome.failure is not None
        failure = outcome.failure
        again = "run the same command to make it again"
        hint = f"{failure.hint}; {again}" if failure.hint else again
        logger.error(
            f"{outcome.run} failed: {failure.reason}\n{failure.trace}".strip(), extra={"hint": hint}
        )
        codes.append(_CODES.get(failure.kind, OUR_BUG))
    return codes[0]


def _told(outcome: Outcome, work: Work) -> str:
    if outcome.facts is None:
        assert outcome.failure is not None
        return f"{outcome.run} FAILED: {outcome.failure.reason.splitlines()[0]}"
    facts, run = outcome.facts, outcome.run
    metric = metric_names(run.settings.evaluate.ks)[0]
    cell = cells_of({run.row.name: {run.seed: work.scores(run)}})[run.row.name, metric, MACRO]
    told = f"{run}: macro {metric.replace('_', '@').capitalize()} {cell.mean:.2%}"
    if facts.best_epoch is not None and facts.train_cpu_s is not None:
        told += f", best epoch {facts.best_epoch}, {facts.train_cpu_s:,.0f} CPU seconds"
    return told


def _pace(finished: Sequence[Outcome]) -> float:
    """Return how many seconds pass per second of CPU time, by the trainings that ended here."""
    pairs = [(o.took_s, o.facts.train_cpu_s) for o in finished if o.facts and o.facts.train_cpu_s]
    return sum(took for took, _ in pairs) / sum(cpu for _, cpu in pairs) if pairs else 1.0


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown time"
    minutes = timedelta(minutes=round(seconds / 60))
    return str(minutes)[:-3] + " h"


def _log(log: ComparisonLog, run: Run, facts: RunFacts, work: Work) -> None:
    # By what it came to: a run that is made again, by other code, is another one.
    made = payload_digest(work.place(run))
    log.log(
        f"{work.splits_digest[:12]}/{run.key}/{made[:12]}",
        tags={
            "mlflow.runName": str(run),
            "row": run.row.name,
            "splits_digest": work.splits_digest,
            **({"revision": facts.revision} if facts.revision else {}),
        },
        settings={"row": run.row.name, "seed": run.seed, **facts.settings},
        metrics=_metrics(run, facts, work.scores(run)),
        epochs=facts.epochs,
        monitor_k=run.settings.train.monitor_k if run.settings.train else 0,
        files=[work.scores_file(run)],
    )


def _metrics(run: Run, facts: RunFacts, scores: pl.DataFrame) -> dict[str, float]:
    cells = cells_of({run.row.name: {run.seed: scores}})
    metrics = {f"{metric}/{scenario}": cell.mean for (_, metric, scenario), cell in cells.items()}
    known = {
        "best_epoch": facts.best_epoch,
        "train_cpu_s": facts.train_cpu_s,
        "num_parameters": facts.num_parameters,
    }
    return metrics | {name: float(value) for name, value in known.items() if value is not None}
