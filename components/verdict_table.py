"""A verdict as a table: at a terminal, and as plain text where there is none."""

from __future__ import annotations

import io
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perscen.evaluation.verdict import Outcome, Verdict

_COLOURS: Final = {
    Outcome.PASS: "green",
    Outcome.WATCH: "yellow",
    Outcome.INSUFFICIENT: "yellow",
    Outcome.FAIL: "red",
}
_WIDE: Final = 200


def plain_table(verdict: Verdict) -> str:
    """Return the table as lines of fixed-width text, as wide as it needs, without colours."""
    console = Console(file=io.StringIO(), width=_WIDE, color_system=None, force_terminal=False)
    table = verdict_table(verdict)
    table.box, table.pad_edge = SIMPLE_HEAD, False
    with console.capture() as text:
        console.print(table)
    return "\n".join(line.rstrip() for line in text.get().splitlines() if line.strip())


def verdict_table(verdict: Verdict) -> Table:
    """Return one row per scenario; shares in percent."""
    against = verdict.scenarios[0].compared_with.replace("_", " ") if verdict.scenarios else ""
    table = Table(
        title=f"Verdict for {verdict.logical_date}: {verdict.decision.value}", title_justify="left"
    )
    table.add_column("scenario")
    for name in ("users", f"recall@{verdict.k}", "popularity", f"Δ to {against}", "margin"):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    for row in verdict.scenarios:
        table.add_row(
            Text(row.scenario),
            f"{row.num_users:,}",
            _percent(row.candidate_recall),
            _percent(row.popularity_recall),
            _interval(row.difference, row.low, row.high),
            _percent(row.margin),
            Text.assemble((row.outcome.value, _COLOURS[row.outcome]), f" {row.policy or ''}"),
        )
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "–"
    return f"{100 * value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
