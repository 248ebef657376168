"""``perscen tune``: better settings, found on the validation window within a budget of minutes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from components.console import open_console
from components.lock import alone
from perscen.staging import write_whole

if TYPE_CHECKING:  # torch and Optuna load when the command is called, so that help stays fast
    from perscen.config import Config
    from perscen.experiments.search_history import History, Training
    from perscen.experiments.search_space import Space
    from perscen.experiments.tuning import Tuned
    from perscen.manifests import SplitsManifest
    from perscen.recipes import Recipe
    from perscen.training.records import EpochRecord
    from perscen.training.steps import Watcher

_WINDOWS: Final = ("train", "valid", "test")
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("splits", type=click.Path(path_type=Path, file_okay=False))
@click.option("--recipe", default="best", show_default=True, help="Where the search starts.")
@click.option("--family", default="perscen", show_default=True, help="The model's family.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True
)
@click.option(
    "--study",
    type=_FILE,
    default="build/tune.db",
    show_default=True,
    help="SQLite file with the history; a search goes on from the one that is there.",
)
@click.option("--space", type=_FILE, help="YAML file of what may be tried.  [default: our own]")
@click.option(
    "--finalists",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Best settings that are trained with further seeds, beside the recipe.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
def tune(
    splits: Path,
    recipe: str,
    family: str,
    minutes: float,
    study: Path,
    space: Path | None,
    finalists: int,
    seeds: int,
) -> None:
    """Search for better settings of a recipe, on the validation window alone.

    Writes the winner's complete params.yaml and a CSV of every training beside the study. Interrupt
    it as you like: the same command goes on where it was.

    \b
    Examples:
      perscen tune artifacts/splits --minutes 30
      perscen tune artifacts/splits --recipe paper --family dssm --study build/dssm.db
    """  # noqa: D301 (click reads the backspace: keep these lines as they are)
    from components.pipeline import PIPELINE
    from components.runner import code_version
    from components.store import open_artifact
    from perscen.data.splits import Splits
    from perscen.experiments.search_history import open_history
    from perscen.experiments.search_space import DEFAULT_SPACE, read_space
    from perscen.experiments.tuning import Budget
    from perscen.experiments.tuning import tune as search
    from perscen.recipes import recipe_named

    # A command for people answers when it is done; half an hour is long to wait without a word.
    logging.getLogger("perscen.experiments.tuning").setLevel(logging.INFO)
    start = recipe_named(recipe, family=family)
    tried = read_space(start, space or DEFAULT_SPACE)
    manifest: Any = open_artifact(splits, kind="splits").manifest
    # Before the search: what is wrong with them would lose all it found.
    config = _config(start, manifest, origin=str(splits))
    of = {"splits": manifest.digest, "family": family, "recipe": _settings_of(start)}
    with _alone(study), open_history(study, tried, of=of) as history, _board(minutes) as watchers:
        try:
            found = search(
                Splits.open(splits, hide_test=True),
                tried,
                history,
                Budget(minutes=minutes, finalists=finalists, seeds=seeds),
                work=study.with_suffix(".work"),
                follows_from=[manifest.digest, code_version(PIPELINE["train"])],
                watchers=watchers,
            )
        finally:
            write_whole(study.with_suffix(".csv"), _history_csv(history))
        name = f"--recipe {recipe} --family {family}"
        _report(found, history, tried, study=study, name=name, config=config)


def _report(
    found: Tuned,
    history: History,
    space: Space,
    *,
    study: Path,
    name: str,
    config: Config,
) -> None:
    from components.settings_commands import config_yaml
    from perscen.recipes import with_settings

    winner, num = found.winner, len(found.judged_by)
    open_console().print(_table(found, history.trials(), space))
    told = f"trial {winner.trial}: {100 * winner.mean(found.judged_by):.2f} % over {num} seed"
    told += "s" * (num > 1)
    if found.judged_by != found.seeds:
        told += " that had no part in choosing it"
    header = f"# Every setting of a run, from `perscen tune` of {name}: {told}."
    recipe = with_settings(space.recipe, winner.settings, origin="the search")
    config = config.model_copy(update=recipe._asdict())
    params = study.with_suffix(".params.yaml")
    write_whole(params, config_yaml(config, header=header))
    if not found.complete:
        click.echo("not all finalists have all their seeds yet: run it again, and it goes on")
    click.echo(f"{told} → {params}")


def _table(found: Tuned, trials: Sequence[Training], space: Space) -> Table:
    k = space.recipe.train.monitor_k
    finished = sum(t.outcome == "finished" for t in trials)
    table = Table(
        title=f"Macro Recall@{k} on the validation window, percent; {len(trials)} trials, "
        f"{finished} of them trained to the end",
        title_justify="left",
    )
    table.add_column("trial", justify="right")
    for seed in found.seeds:
        table.add_column(f"seed {seed}", justify="right")
    judges = ", ".join(map(str, found.judged_by))
    table.add_column(f"mean ± sd of {judges}", justify="right")
    table.add_column("settings that differ from the recipe's", overflow="fold")
    for finalist in found.finalists:
        recall = {seed: 100 * training.value for seed, training in finalist.by_seed.items()}
        values = [recall[seed] for seed in found.judged_by]
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        changes = space.changes(finalist.settings)
        told = ", ".join(f"{path}: {_number(value)}" for path, value in changes.items())
        table.add_row(
            str(finalist.trial),
            *(f"{recall[seed]:.2f}" for seed in found.seeds),
            f"{fmean(values):.2f}{spread}",
            told or "none: the recipe itself",
        )
    return table


def _history_csv(history: History) -> str:
    """Return every training, one line each; those with further seeds last."""
    trainings = [*history.trials(), *history.confirmations()]
    scenarios = list(dict.fromkeys(name for t in trainings for name in t.recall))
    settings = list(dict.fromkeys(path for t in trainings for path in t.settings))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = ("trial", "seed", "outcome", "epochs", "best_epoch", "seconds")
    recalls = (f"recall/{name}" for name in scenarios)
    writer.writerow([*facts, "macro_recall", *recalls, *settings])
    for t in trainings:
        macro = f"{t.value:.6f}" if t.recall else ""
        recall = [f"{t.recall[name]:.6f}" if t.recall else "" for name in scenarios]
        told = [getattr(t, name) for name in facts[:-1]]
        values = [t.settings[path] for path in settings]
        writer.writerow([*told, f"{t.seconds:.1f}", macro, *recall, *values])
    return text.getvalue()


def _config(recipe: Recipe, manifest: SplitsManifest, *, origin: str) -> Config:
    """Return a run's settings: the recipe's, on splits made as these were.

    Raises:
        ConfigError: They were made with settings that are not known here.
    """
    from perscen.config import Config, DataConfig, RunConfig, parse_split

    windows = {n: (w.first, w.last) for n in _WINDOWS for w in [getattr(manifest, n)]}
    split = parse_split(manifest.settings.get("split", windows), origin=origin)
    return Config(
        run=RunConfig(logical_date=manifest.logical_date),
        data=DataConfig.holding(split),
        split=split,
        model=recipe.model,
        train=recipe.train,
    )


def _settings_of(recipe: Recipe) -> str:
    text = json.dumps(
        {name: part.model_dump(mode="json") for name, part in recipe._asdict().items()}
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _alone(study: Path) -> AbstractContextManager[None]:
    """Hold the study, so that no two searches write one history.

    Raises:
        ServiceUnavailable: Another search has it.
        ConfigError: It cannot be written where it is to lie.
    """
    hint = "wait for it, or give --study another file"
    return alone(study, what=study, wait_s=0, hint=hint)


class _Board:
    """Which training runs, how it does, and how much of the budget is left."""

    def __init__(self, progress: Progress, *, minutes: float) -> None:
        self._progress = progress
        self._ends = time.monotonic() + 60 * minutes
        self._task = progress.add_task("", total=60 * minutes, left="")
        self._label = self._told = ""

    def watch(self, label: str) -> Sequence[Watcher]:
        """Turn to another training."""
        self._label, self._told = label, ""
        return (self,)

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        """Move the bar."""
        left = max(self._ends - time.monotonic(), 0)
        total = self._progress.tasks[0].total or 0
        self._progress.update(
            self._task,
            completed=total - left,
            description=f"{self._label}, epoch {epoch}, step {step} of {num_steps}{self._told}",
            left=f"{left // 60:.0f}:{left % 60:02.0f} left",
        )

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        """Do nothing: its steps are shown."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Remember how it does."""
        self._told = f"; macro recall {100 * record.macro_recall:.2f} %"


@contextmanager
def _board(minutes: float) -> Iterator[Callable[[str], Sequence[Watcher]]]:
    """Show a bar at a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    if not console.is_terminal:
        yield lambda _: ()
        return
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Board(progress, minutes=minutes).watch
