"""``perscen splits``: any past day's splits back from the DVC remote, and what they count."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.table import Table

from components.console import open_console

if TYPE_CHECKING:  # the commands import DVC when called, so that help stays fast
    from components.adapters.versioning import Pointer
    from perscen.manifests import SplitsManifest
    from perscen.protocols import Counts

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
    """Bring back the splits of past days, which orchestrated runs commit to DVC, or count some.

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
    open_console().print(table)


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


@splits.command()
@click.argument("directory", metavar="SPLITS", type=click.Path(path_type=Path, file_okay=False))
def counts(directory: Path) -> None:
    """Print users, items and clicks beside Table 1 of the paper.

    For splits of a whole archive, made under the protocol of the paper.

    Example: perscen splits counts artifacts/splits
    """
    from components.store import open_artifact
    from perscen.data.splits import Splits
    from perscen.protocols import count

    manifest: Any = open_artifact(directory, kind="splits").manifest
    name, paper = _paper_of(manifest, directory)
    open_console().print(_beside(count(Splits.open(directory)), paper, title=name))


def _paper_of(manifest: SplitsManifest, directory: Path) -> tuple[str, Counts]:
    from perscen.errors import ConfigError
    from perscen.protocols import PROTOCOLS

    windows = [(w.first, w.last) for w in (manifest.train, manifest.valid, manifest.test)]
    for name, protocol in PROTOCOLS.items():
        days = protocol.split
        if protocol.paper and windows == [days.train, days.valid, days.test]:
            return name, protocol.paper
    raise ConfigError(
        f"{directory} has training days {manifest.train.first} to {manifest.train.last} and test "
        f"days {manifest.test.first} to {manifest.test.last}, which are none of the paper's, so "
        "its counts say nothing of these splits",
        hint="make splits of a whole archive: `perscen params --protocol paper-kuairand`",
    )


def _beside(ours: Counts, paper: Counts, *, title: str) -> Table:
    table = Table(title=f"{title}: these splits beside Table 1", title_justify="left")
    table.add_column("")
    for name in ("these splits", "the paper", "difference"):
        table.add_column(name, justify="right")
    for name in ("scenarios", "users", "items", "interactions"):
        own, theirs = getattr(ours, f"num_{name}"), getattr(paper, f"num_{name}")
        table.add_row(name, f"{own:,}", f"{theirs:,}", f"{(own - theirs) / theirs:+.1%}")
    for rank, (own, theirs) in enumerate(zip(ours.shares, paper.shares, strict=False), start=1):
        points = f"{100 * (own - theirs):+.1f} points"
        table.add_row(f"share of scenario {rank}", f"{own:.1%}", f"{theirs:.0%}", points)
    return table


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
