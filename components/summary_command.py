"""``perscen summary``: how the last run ended, in a dozen lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from components.verdict_table import verdict_table
from perscen.errors import ArtifactError
from perscen.evaluation.verdict import Decision, Verdict, read_verdict

_WIDTH: Final = 110


@click.command()
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path),
    default="artifacts",
    show_default=True,
    help="Where the run's artifacts lie.",
)
@click.option("--k", type=click.IntRange(min=1), default=10, show_default=True)
def summary(artifacts: Path, k: int) -> None:
    """Say how the last run ended: verdict, release, report, and an example.

    Example: perscen summary --artifacts artifacts --k 5
    """
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH  # what a pipe or a file has room for, not rich's 80
    verdict = read_verdict(artifacts / "verdict")
    console.print(verdict_table(verdict))
    console.print(verdict.summary)
    if verdict.decision is Decision.PROMOTE:
        _show_release(console, artifacts / "release" / "release.json", verdict, k=k)
    page = (artifacts / "report" / "index.html").resolve()
    if page.exists():
        console.print(f"\nReport: {page.as_uri()}", soft_wrap=True)


def _show_release(console: Console, record: Path, verdict: Verdict, *, k: int) -> None:
    try:
        release = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"there is no {record}", hint="run `publish`") from None
    console.print(f"\nReleased: {release['name']} version {release['version']}", soft_wrap=True)

    from components.adapters.addresses import resolve_bundle  # MLflow: only for a release
    from perscen.retrieval.retriever import Retriever

    bundle = resolve_bundle(f"models:/{release['name']}/{release['version']}")
    retriever = Retriever.open(bundle.path)
    user = retriever.known_users()[0]
    scenarios = [row.scenario for row in verdict.scenarios][:2]
    table = Table(title=f"Top {k} for user {user}", title_justify="left")
    table.add_column("rank", justify="right")
    for scenario in scenarios:
        table.add_column(f"scenario {scenario}")
    lists = [retriever.retrieve(user=user, scenario=scenario, k=k) for scenario in scenarios]
    for rank, row in enumerate(zip(*lists, strict=True), start=1):
        table.add_row(str(rank), *(f"{item}  {score:.3f}" for item, score in row))
    console.print(table)
