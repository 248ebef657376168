"""``perscen data``: bring logs into the raw layout, the pipeline's external input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:  # the commands import the library when called, so that help stays fast
    from perscen.data.csv_tables import Progress as Told
    from perscen.manifests import RawLogManifest

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_to = click.option(
    "--to",
    type=click.Path(path_type=Path),
    default="data/raw",
    show_default=True,
    help="Where the raw layout goes; one that is there is replaced once the new one is whole.",
)


@click.group()
def data() -> None:
    """Bring logs into the raw layout, which `validate` reads.

    The source is never touched, and nothing half-written is left behind.

    Example: perscen data synthetic
    """


@data.command()
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@_to
def synthetic(seed: int, to: Path) -> None:
    """Generate the embedded synthetic log.

    14 days, four scenarios and planted defects; the truth (defects, user groups, click
    probabilities) is written beside it, in truth/.

    Example: perscen data synthetic --seed 7 --to data/raw
    """
    from perscen.data.synthetic import import_synthetic

    _close(import_synthetic(to, seed=seed), to)


@data.command()
@click.option(
    "--from",
    "source",
    type=_DIRECTORY,
    help="Folder of the official CSV files; without it the official archive is downloaded (47 MB).",
)
@click.option(
    "--cache",
    type=_DIRECTORY,
    default="~/.cache/perscen",
    show_default=True,
    help="Where the downloaded archive is kept; an interrupted download goes on from there.",
)
@click.option("--include-random-log", is_flag=True, help="Take the randomly exposed videos too.")
@_to
def kuairand_pure(source: Path | None, cache: Path, include_random_log: bool, to: Path) -> None:
    """Import KuaiRand-Pure (CC BY-SA 4.0, https://kuairand.com).

    \b
    Examples: perscen data kuairand-pure
              perscen data kuairand-pure --from ~/KuaiRand-Pure/data --to data/raw
    """  # noqa: D301 (click reads the backspace: keep these lines as they are)
    from perscen.data.download import download
    from perscen.data.kuairand import import_kuairand
    from perscen.data.raw_layout import refuse_foreign

    if source is None:
        refuse_foreign(to)  # before 47 MB are fetched for nothing
        with _bar("downloading") as told:
            source = download(cache.expanduser(), progress=told)
    with _bar("importing") as told:
        manifest = import_kuairand(source, to, include_random_log=include_random_log, progress=told)
    _close(manifest, to)


@data.command()
@click.option(
    "--from",
    "source",
    type=_DIRECTORY,
    required=True,
    help="Folder with raw_sample.csv, ad_feature.csv and user_profile.csv.",
)
@_to
def alimama(source: Path, to: Path) -> None:
    """Import Alimama (Ali_Display_Ad_Click).

    Example: perscen data alimama --from ~/Ali_Display_Ad_Click --to data/raw
    """
    from perscen.data.alimama import import_alimama

    with _bar("importing") as told:
        manifest = import_alimama(source, to, progress=told)
    _close(manifest, to)


@data.command()
@click.argument("day", type=click.DateTime(["%Y-%m-%d"]))
@click.option("--from", "source", type=_DIRECTORY, required=True, help="Raw layout with the day.")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default="data/raw",
    show_default=True,
    help="The raw layout that grows; a day that is there is replaced.",
)
def land(day: datetime, source: Path, to: Path) -> None:
    """Add one day to a raw layout, as a nightly export does.

    The feature tables are replaced by the export's. The day has landed once source.json lists it,
    which happens last: a scheduled run that waits for the day starts then.

    Example: perscen data land 2022-05-05 --from export --to data/raw
    """
    from perscen.data.landing import land as land_day

    _close(land_day(day.date(), source=source, to=to), to)


@contextmanager
def _bar(what: str) -> Iterator[Told]:
    """Show a bar at a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=None)

        def told(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield told


def _close(manifest: RawLogManifest, to: Path) -> None:
    rows = dict.fromkeys(("date", "users", "items"), 0)
    days = []
    for name, file in manifest.files.items():
        folder = name.split("/")[0]
        table, _, day = folder.partition("=")
        if table in rows:
            rows[table] += file.rows
        if day[:1].isdigit():
            days.append(day)
    span = f"{min(days)} … {max(days)}" if days else "none readable"
    click.echo(
        f"{rows['date']:,} rows over {len(days)} days ({span}), {rows['users']:,} users, "
        f"{rows['items']:,} items → {to}"
    )
