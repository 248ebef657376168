"""``perscen splits``: any past day's splits, back from the DVC remote."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # the commands import DVC when called, so that help stays fast
    from components.adapters.versioning import Pointer

_NEAREST: Final = 3
remote_option = click.option(
    "--remote",
    envvar="PERSCEN_DVC_REMOTE",
    show_envvar=True,
    required=True,
    help="DVC remote the daily runs push to: a folder or s3://bucket/prefix.",
)


@click.group()
def splits() -> None:
    """Bring back the splits of past days, which orchestrated runs commit to DVC.

    Example: perscen splits fetch 2022-05-04
    """


@splits.command("list")
@remote_option
def list_days(remote: str) -> None:
    """Print the days whose splits were committed.

    Example: perscen splits list --remote s3://bucket/perscen
    """
    from components.adapters.versioning import committed

    table = Table(title=f"Splits in {remote}", title_justify="left")
    for name in ("logical date", "DVC's hash", "digest"):
        table.add_column(name)
    for name in ("files", "MB"):
        table.add_column(name, justify="right")
    for day in committed(remote):
        size = f"{day.size_bytes / 1e6:,.1f}"
        row = (str(day.logical_date), day.dvc, day.digest[:12], f"{day.num_files:,}", size)
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = 100  # what a pipe or a file has room for, not rich's 80
    console.print(table)


@splits.command()
@click.argument("day", metavar="DATE", type=click.DateTime(["%Y-%m-%d"]))
@remote_option
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where they go; one that is there is replaced once the new one is whole.  "
    "[default: artifacts/splits-DATE]",
)
def fetch(day: datetime, remote: str, to: Path | None) -> None:
    """Bring back the splits of a day, and check every byte of them.

    \b
    Examples:
      perscen splits fetch 2022-05-04
      perscen splits fetch 2022-05-04 --remote s3://bucket/perscen --to artifacts/splits
    """  # noqa: D301 (click reads the backspace: keep these lines as they are)
    from components.adapters.versioning import committed

    to = to or Path(f"artifacts/splits-{day.date()}")
    pointer = _pointer(committed(remote), day.date(), remote=remote)
    fetch_splits(pointer.dvc, digest=pointer.digest, remote=remote, to=to)
    click.echo(f"splits of {pointer.logical_date}, digest {pointer.digest[:12]} → {to}")


def fetch_splits(dvc: str, *, digest: str, remote: str, to: Path) -> None:
    """Bring back the splits of a hash; what was at ``to`` stays until they are whole.

    Raises:
        ArtifactError: They are not there, or are not what was committed.
    """
    from components.adapters import versioning
    from components.store import open_artifact, staged
    from perscen.errors import ArtifactError

    with staged(to) as scratch:
        versioning.fetch(dvc, remote=remote, to=scratch)
        found = open_artifact(scratch, kind="splits").manifest.digest
        if found != digest:
            raise ArtifactError(
                f"{dvc} in {remote} holds splits {found[:12]}, expected {digest[:12]}",
                hint="run the day again to commit its splits anew",
            )


def _pointer(days: list[Pointer], wanted: date, *, remote: str) -> Pointer:
    from perscen.errors import ArtifactError

    for day in days:
        if day.logical_date == wanted:
            return day
    near = sorted(days, key=lambda day: abs(day.logical_date - wanted))[:_NEAREST]
    there = ", ".join(str(day.logical_date) for day in sorted(near, key=lambda d: d.logical_date))
    raise ArtifactError(
        f"the splits of {wanted} were never committed to {remote}; "
        + (f"the nearest days there are {there}" if near else "no day was"),
        hint="`perscen splits list` prints every day; an orchestrated run commits its own",
    )
