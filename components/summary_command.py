"""``perscen summary``: how the last run ended, in a dozen lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from components.console import open_console
from components.store import open_artifact
from components.verdict_table import verdict_table
from perscen.errors import ArtifactError, ConfigError
from perscen.evaluation.verdict import Decision, Verdict, read_verdict


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
    console = open_console()
    verdict = read_verdict(artifacts / "verdict")
    console.print(verdict_table(verdict))
    console.print(verdict.summary)
    if verdict.decision is Decision.PROMOTE:
        _show_release(console, artifacts, verdict, k=k)
    page = (artifacts / "report" / "index.html").resolve()
    if page.exists():
        console.print(f"\nReport: {page.as_uri()}", soft_wrap=True)


def _show_release(console: Console, artifacts: Path, verdict: Verdict, *, k: int) -> None:
    release = _release_of_verdict(artifacts)
    console.print(f"\nReleased: {release['name']} version {release['version']}", soft_wrap=True)

    from components.adapters.addresses import resolve_bundle  # MLflow: only for a release
    from perscen.retrieval.retriever import Retriever

    bundle = resolve_bundle(f"models:/{release['name']}/{release['version']}")
    retriever = Retriever.open(bundle.path)
    try:
        user = retriever.known_users()[0]
    except ConfigError:  # published without users: there is nobody to ask for
        return
    scenarios = [row.scenario for row in verdict.scenarios][:2]
    table = Table(title=f"Top {k} for user {user}", title_justify="left")
    table.add_column("rank", justify="right")
    for scenario in scenarios:
        table.add_column(f"scenario {scenario}")
    lists = [retriever.retrieve(user=user, scenario=scenario, k=k) for scenario in scenarios]
    for rank, row in enumerate(zip(*lists, strict=True), start=1):
        table.add_row(str(rank), *(f"{item}  {score:.3f}" for item, score in row))
    console.print(table)


def _release_of_verdict(artifacts: Path) -> dict[str, Any]:
    """Return what ``publish`` wrote of this verdict's release; a run may have ended before it."""
    unpublished = f"the verdict in {artifacts} is not published yet"
    record = artifacts / "release" / "release.json"
    if not record.exists():
        raise ArtifactError(f"{unpublished}: there is no {record}", hint="run `publish`")
    judged = open_artifact(artifacts / "verdict", kind="verdict").manifest.digest
    published = open_artifact(record.parent, kind="release").manifest.parents.get("verdict", "")
    if published != judged:
        raise ArtifactError(
            f"{unpublished}: {record} is of verdict {published[:12]}, this one is {judged[:12]}",
            hint="run `publish`",
        )
    told: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return told
