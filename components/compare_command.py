"""``perscen compare``: many models under one protocol, and the tables of what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from components.surroundings import Surroundings

if TYPE_CHECKING:  # torch and MLflow take seconds that --help should not cost
    from perscen.config import EvaluateConfig
    from perscen.experiments.processes import Outcome
    from perscen.experiments.rows import Row, Table
    from perscen.experiments.runs import Run

_LISTS: Final = ("--families", "--without", "--set", "--ks")
"""Options that take all words up to the next option."""


class _Command(click.Command):
    """A command some of whose options take several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        taking = ""
        for word in args:
            if word.startswith("--"):
                taking = word if word in _LISTS else ""
            elif taking and spread[-1] != taking:
                spread.append(taking)
            spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(cls=_Command)
@click.argument("splits", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--table",
    "table_name",
    help="What to compare: main, ablations, item-tower, sweeps.  "
    "[default: main, or the rows of --families alone]",
)
@click.option(
    "--families",
    "names",
    multiple=True,
    metavar="NAME...",
    help="Rows of the tables, or families, to compare; with --table, only these of its rows.",
)
@click.option("--without", multiple=True, metavar="NAME...", help="Rows of the table to leave out.")
@click.option("--recipe", help="Train the named rows by this recipe instead of their own.")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="SETTING=VALUE...",
    help="Change settings of the named rows, such as model.gnn.layers=2.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--ks",
    type=click.IntRange(min=1),
    multiple=True,
    default=(50, 100),
    show_default=True,
    metavar="K...",
    help="Ks of recall and hits.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Trainings at a time, one thread each.  [default: what cores and free memory bear]",
)
@click.option("--table-only", is_flag=True, help="Train nothing; write what there is.")
@click.option(
    "--work",
    "work_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default="build/compare",
    show_default=True,
    help="Where finished runs are kept; a comparison that was stopped goes on from there.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="build/compare/pages",
    show_default=True,
)
@click.option("--name", help="What the files in --out are called.  [default: the table's name]")
@click.pass_obj
def compare(
    surroundings: Surroundings,
    splits: Path,
    table_name: str | None,
    names: tuple[str, ...],
    without: tuple[str, ...],
    recipe: str | None,
    given: tuple[str, ...],
    seeds: int,
    ks: tuple[int, ...],
    jobs: int | None,
    table_only: bool,
    work_dir: Path,
    out: Path,
    name: str | None,
) -> None:
    """Train and score models on SPLITS under one protocol, and write the tables.

    Every model with every seed is a process of one thread. What is finished is kept in --work and
    not made again; run the same command to go on after a stop. Each run is logged in MLflow.

    \b
    Examples:
      perscen compare artifacts/splits --table main --seeds 5 --out docs/results
      perscen compare artifacts/splits --families perscen dssm_m segment_popularity --seeds 3
      perscen compare artifacts/splits --families perscen --set model.gnn.layers=2 train.optim.lr=0.001
      perscen compare artifacts/splits --families m5 sass --recipe best --table-only
    """  # noqa: D301, E501 (click reads the backspace: keep these lines as they are)
    from components.comparison.files import check_place, write_files
    from components.comparison.making import make_missing, tell
    from components.comparison.results import collect
    from components.store import open_artifact, payload_digest
    from perscen.config import EvaluateConfig
    from perscen.experiments.making import PinnedSplits
    from perscen.experiments.runs import Work, runs_of
    from perscen.experiments.settings import read_changes, settings_of

    artifact = open_artifact(splits, kind="splits")
    changes = read_changes(given)
    table, rows = _asked(table_name, names, without=without, recipe=recipe, changes=changes)
    evaluate = EvaluateConfig(ks=tuple(sorted(set(ks))))
    runs = runs_of([(row, settings_of(row, evaluate=evaluate)) for row in rows], seeds=seeds)
    # What was computed on equal files stays valid, whatever code the split step has by now.
    work = Work(work_dir, splits_digest=payload_digest(splits))
    failures: list[Outcome] = []
    check_place(table, out, name=name or table.name)
    if not table_only:
        _check(runs, splits, evaluate, may_leave_out=table_name is not None or not names)
        pinned = PinnedSplits(splits, artifact.manifest.digest)
        failures = make_missing(runs, pinned, work, jobs=jobs, run_id=surroundings.run_id)
    if failures and len(failures) == len(runs):  # there is nothing to write
        raise click.exceptions.Exit(tell(failures))
    results = collect(table, rows, runs, work)
    for path in write_files(results, out, name=name or table.name):
        click.echo(f"wrote {path}")
    if results.lacking:
        missing = sum(wanted - has for has, wanted in results.lacking.values())
        click.echo(f"{missing} of {len(runs)} runs are missing: the tables say how many each has")
    if failures:
        raise click.exceptions.Exit(tell(failures))


def _asked(
    table_name: str | None,
    names: Sequence[str],
    *,
    without: Sequence[str],
    recipe: str | None,
    changes: dict[str, Any],
) -> tuple[Table, list[Row]]:
    """Return the table that is asked for and its rows.

    Raises:
        ConfigError: There is no such table or row, the table has no such row or none is left of
            it, or nothing that is asked for follows from ``recipe`` and ``changes``.
    """
    from perscen.errors import ConfigError, unknown_name
    from perscen.experiments.rows import ROWS, TABLES, Block, Table
    from perscen.experiments.settings import changed, row_named

    if (recipe or changes) and not names:
        raise ConfigError(
            "--recipe and --set change named rows, but none is named",
            hint="name them: --families perscen dssm_m",
        )
    if table_name is not None and table_name not in TABLES:
        raise unknown_name("table", table_name, TABLES)
    if names and table_name is None:
        if without:
            raise ConfigError(
                "--without leaves rows of a table out, but no table is named",
                hint="name it with --table, or name with --families only what you want",
            )
        rows = [changed(row_named(n), recipe=recipe, changes=changes) for n in dict.fromkeys(names)]
        if (recipe or changes) and not any(row.family for row in rows):
            raise ConfigError(
                f"--recipe and --set change how rows are trained, but none of {', '.join(names)} "
                "is trained",
                hint="leave --recipe and --set out, or name a row that is trained",
            )
        subject = next((row.name for row in rows if row.family == "perscen"), "")
        block = Block("", tuple(row.name for row in rows), subject=subject)
        return Table("rows", "Models side by side", (block,)), rows
    table = TABLES[table_name or "main"]
    if recipe or changes:
        raise ConfigError(
            f"the rows of table {table.name} are as they are",
            hint="leave out --table, or --recipe and --set",
        )
    for name in (*names, *without):
        if name not in table.rows:
            raise unknown_name(f"row of table {table.name}", name, table.rows)
    wanted = [name for name in table.rows if name in (names or table.rows) and name not in without]
    if not wanted:
        raise ConfigError(
            f"nothing is left of table {table.name} without {', '.join(dict.fromkeys(without))}",
            hint="leave out fewer of its rows",
        )
    return table.only(wanted), [ROWS[name] for name in wanted]


def _check(
    runs: Sequence[Run], splits_dir: Path, evaluate: EvaluateConfig, *, may_leave_out: bool
) -> None:
    """Check every row against the data before anything is trained.

    Args:
        runs: What is to be made.
        splits_dir: Of these.
        evaluate: How.
        may_leave_out: Whether rows can be left out by ``--without``.

    Raises:
        ConfigError: Rows cannot be made of these data, or a K is larger than the catalogue.
        ArtifactError: A scenario has no test user.
    """
    from perscen.data.splits import Splits
    from perscen.errors import ConfigError
    from perscen.evaluation.evaluate import check_test
    from perscen.experiments.making import check_run

    splits = Splits.open(splits_dir)
    check_test(splits, evaluate)
    faults: dict[str, list[str]] = {}  # by message: one thing can be wrong with many rows
    hints: dict[str, None] = {}
    fine: list[str] = []
    for run in runs:
        if run.seed > 0:
            continue
        try:
            check_run(run, splits)
            fine.append(run.row.name)
        except ConfigError as exc:
            faults.setdefault(exc.message, []).append(run.row.name)
            if exc.hint:
                hints[exc.hint] = None
    if not faults:
        return
    if fine:
        broken = [name for names in faults.values() for name in names]
        others = f"add --without {' '.join(broken)}"
        if not may_leave_out:
            others = f"--families {' '.join(fine)}"
        hints[f"compare the others: {others}"] = None
    told = (
        f"row{'s' if len(names) > 1 else ''} {', '.join(names)}: {message}"
        for message, names in faults.items()
    )
    raise ConfigError("\n  ".join(told), hint="; or ".join(hints))
