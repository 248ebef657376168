"""From findings to a terminal, to files, and to a page of the documentation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import polars as pl
from markupsafe import Markup
from rich.table import Table

from components.console import open_console
from components.marks import around_marks, put_between_marks
from components.report.drawing import standalone
from components.report.page import Figure
from components.report.words import cell_text

_SHARES: Final = ("macro_recall", "recall/", "near_", "on_shared_codes", "edges")
"""Columns that are fractions in the files and percent in what people read."""
_WIDTH: Final = 140


@dataclass(frozen=True)
class Finding:
    """A table, what it shows, and drawings of it by name."""

    name: str
    title: str
    table: pl.DataFrame
    figures: Mapping[str, Markup] = field(default_factory=dict)


def check_page(page: Path | None, *, made_by: str) -> None:
    """Check that a page has a place for text, before the work that the text is on.

    Raises:
        ArtifactError: It has none for what ``made_by`` makes.
    """
    if page is not None:
        around_marks(page, made_by=made_by)


def show(findings: Sequence[Finding], *, out: Path, page: Path | None, made_by: str) -> None:
    """Print the tables; write each as CSV, its drawings as SVG; fill a page's marks.

    Raises:
        ArtifactError: The page has no place for what ``made_by`` makes.
    """
    console = open_console(width=_WIDTH)
    out.mkdir(parents=True, exist_ok=True)
    for finding in findings:
        console.print(_rich(finding))
        finding.table.write_csv(out / f"{finding.name}.csv", float_precision=6)
        click.echo(f"→ {out / finding.name}.csv")
        write_figures(finding.figures, out=out)
    if page is not None:
        text = "\n".join(_markdown(finding) for finding in findings)
        put_between_marks(page, text, made_by=made_by)


def show_figures(
    figures: Mapping[str, Figure], *, out: Path, page: Path | None, made_by: str
) -> None:
    """Write figures as SVG, print what they say, and fill a page's marks with both.

    Raises:
        ArtifactError: The page has no place for what ``made_by`` makes.
    """
    write_figures({name: figure.svg for name, figure in figures.items()}, out=out)
    for name, figure in figures.items():
        click.echo(f"{name}: {figure.caption}")
    if page is not None:
        places = {name: os.path.relpath(out / f"{name}.svg", page.parent) for name in figures}
        text = "\n".join(
            f"![{name}]({places[name]})\n\n{figure.caption}\n" for name, figure in figures.items()
        )
        put_between_marks(page, text, made_by=made_by)


def write_figures(figures: Mapping[str, Markup], *, out: Path) -> None:
    """Write drawings as SVG files by their names."""
    out.mkdir(parents=True, exist_ok=True)
    for name, svg in figures.items():
        (out / f"{name}.svg").write_text(standalone(svg), encoding="utf-8")
        click.echo(f"→ {out / name}.svg")


def _rich(finding: Finding) -> Table:
    table = Table(title=finding.title, title_justify="left")
    shown = _readable(finding.table)
    for name, kind in shown.schema.items():
        table.add_column(_head(name), justify="left" if kind == pl.String else "right")
    for row in _cells(shown):
        table.add_row(*row)
    return table


def _markdown(finding: Finding) -> str:
    shown = _readable(finding.table)
    columns = shown.schema
    lines = [
        f"**{finding.title}**",
        "",
        _row(_head(name) for name in columns),
        f"|{'|'.join('---' if kind == pl.String else '---:' for kind in columns.values())}|",
        *map(_row, _cells(shown)),
    ]
    return "\n".join(lines) + "\n"


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(map(cell_text, texts))} |"


def _readable(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table without what only a file has room for: the counts of every code."""
    return table.select(name for name in table.columns if not name.startswith("code_"))


def _cells(table: pl.DataFrame) -> list[list[str]]:
    return [
        [_text(name, value) for name, value in zip(table.columns, row, strict=True)]
        for row in table.iter_rows()
    ]


def _head(name: str) -> str:
    return name.replace("/", " ").replace("_", " ")


def _text(name: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        if name.startswith(_SHARES):
            return f"{value:.2%}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
