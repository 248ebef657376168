"""Everything a page is made of: a table's rows with their finished runs, cells and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from perscen.errors import ArtifactError
from perscen.experiments.cells import Cell, Key, cells_of
from perscen.experiments.rows import Row, Table
from perscen.experiments.runs import Run, RunFacts, Work
from perscen.experiments.significance import MACRO, Estimate, Resampled, resample


@dataclass(frozen=True)
class Difference:
    """A row's mean less another's, for every metric and scenario."""

    row: str
    other: str
    estimates: Mapping[tuple[str, str], Estimate]
    """By metric and scenario."""


@dataclass(frozen=True)
class Results:
    """A table with its numbers.

    Attributes:
        rows: Every row of the table by name, in its order, with a finished run or without.
        facts: Of every finished run, by row, in the order of seeds.
        seeds_wanted: Runs that each row has once it is whole.
        scenarios: By falling click volume.
        num_users: Test users of each scenario.
        ks: The Ks of recall and hits.
    """

    table: Table
    rows: Mapping[str, Row]
    facts: Mapping[str, Sequence[RunFacts]]
    seeds_wanted: Mapping[str, int]
    scenarios: Sequence[str]
    num_users: Mapping[str, int]
    ks: Sequence[int]
    cells: Mapping[Key, Cell]
    resampled: Resampled
    differences: Sequence[Difference]
    splits_digest: str

    @property
    def columns(self) -> list[str]:
        """The scenarios, then ``macro``."""
        return [*self.scenarios, MACRO]

    @property
    def lacking(self) -> dict[str, tuple[int, int]]:
        """Rows with fewer runs than wanted: how many there are, and how many are wanted."""
        return {
            row: (len(self.facts[row]), wanted)
            for row, wanted in self.seeds_wanted.items()
            if len(self.facts[row]) < wanted
        }

    def best_other(self, row: str, metric: str, scenario: str) -> str | None:
        """Return the best of the rows that a block's subject is compared with; None without one."""
        block = next(b for b in self.table.blocks if row in b.rows)
        others = [r for r in block.rows if r != row and (r, metric, scenario) in self.cells]
        return max(others, key=lambda r: self.cells[r, metric, scenario].mean, default=None)

    def difference(self, row: str, other: str, metric: str, scenario: str) -> Estimate:
        """Return one row's mean less another's."""
        return self.resampled.difference(row, other, metric, scenario)


def metric_names(ks: Sequence[int]) -> list[str]:
    """Return the names of the metrics as the scores have them."""
    return [f"{name}_{k}" for name in ("recall", "hits") for k in ks]


def collect(table: Table, rows: Sequence[Row], runs: Sequence[Run], work: Work) -> Results:
    """Return a table with the numbers of the runs that are finished.

    Raises:
        ArtifactError: None is, or two of them scored other users.
    """
    by_row = {row.name: row for row in rows}
    facts: dict[str, list[RunFacts]] = {name: [] for name in by_row}
    scores: dict[str, dict[int, pl.DataFrame]] = {}
    wanted = dict.fromkeys(by_row, 0)
    for run in runs:
        wanted[run.row.name] += 1
        known = work.facts(run)
        if known is not None:
            facts[run.row.name].append(known)
            scores.setdefault(run.row.name, {})[run.seed] = work.scores(run)
    scores = {name: scores[name] for name in by_row if name in scores}
    if not scores:
        raise ArtifactError(
            f"{work.directory} holds no finished run of {table.title.lower()}",
            hint="run it without --table-only",
        )
    ks = runs[0].settings.evaluate.ks
    cells, resampled = cells_of(scores), resample(scores, metric_names(ks))
    scenarios = list(resampled.num_users)
    return Results(
        table=table,
        rows=by_row,
        facts=facts,
        seeds_wanted=wanted,
        scenarios=scenarios,
        num_users=resampled.num_users,
        ks=ks,
        cells=cells,
        resampled=resampled,
        differences=[
            Difference(
                row,
                other,
                {
                    (metric, scenario): resampled.difference(row, other, metric, scenario)
                    for metric in metric_names(ks)
                    for scenario in (*scenarios, MACRO)
                },
            )
            for row, other in compared(table, by_row)
            if row in scores and other in scores
        ],
        splits_digest=work.splits_digest,
    )


def compared(table: Table, rows: Mapping[str, Row]) -> list[tuple[str, str]]:
    """Return which rows are compared with which.

    A block's subject with every other row of it and with what needs no training, and a row with
    the one that it stands beside.
    """
    untrained = [name for name in table.rows if rows[name].family is None]
    pairs = [
        (block.subject, other)
        for block in table.blocks
        if block.subject
        for other in (*block.rows, *untrained)
        if other != block.subject
    ]
    pairs += [(name, rows[name].beside) for name in table.rows if rows[name].beside in rows]
    return list(dict.fromkeys(pairs))
