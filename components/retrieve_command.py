"""``perscen retrieve``: which items a release gives a user."""

from __future__ import annotations

import json

import click
from rich.table import Table

from components.console import open_console


@click.command()
@click.option(
    "--bundle",
    "address",
    default="models:/perscen@champion",
    show_default=True,
    help="models:/NAME@ALIAS, models:/NAME/VERSION, or a directory.",
)
@click.option("--user", "user_id", required=True, help="Raw user id; an unknown one is answered.")
@click.option("--scenario", required=True, help="Raw scenario name.")
@click.option("--k", type=int, default=10, show_default=True, help="How many items.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def retrieve(address: str, user_id: str, scenario: str, k: int, *, as_json: bool) -> None:
    r"""Print the best items for a user in a scenario.

    The release is downloaded once, and every byte of it is checked before it answers.

    \b
    Examples:
      perscen retrieve --user 712 --scenario 1
      perscen retrieve --bundle models:/perscen/3 --user 712 --scenario 1 --k 20 --json
    """
    # Here, not above: torch, faiss and MLflow take seconds that --help should not cost.
    from components.adapters.addresses import resolve_bundle
    from perscen.retrieval.retriever import Retriever

    retriever = Retriever.open(resolve_bundle(address).path)
    answer = retriever.retrieve(user_id, scenario, k)
    lineage = retriever.manifest.lineage
    if as_json:
        record = {
            "bundle_id": retriever.manifest.bundle_id,
            "logical_date": lineage.logical_date.isoformat(),
            "user_id": user_id,
            "scenario": scenario,
            "items": [{"item_id": item, "score": score} for item, score in answer],
        }
        click.echo(json.dumps(record))
        return
    table = Table(title=f"user {user_id} in scenario {scenario}, release of {lineage.logical_date}")
    table.add_column("rank", justify="right")
    table.add_column("item")
    table.add_column("score", justify="right")
    for rank, (item, score) in enumerate(answer, start=1):
        table.add_row(str(rank), item, f"{score:.4f}")
    open_console().print(table)
