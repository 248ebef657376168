"""What a comparison writes: a page in Markdown and HTML, figures, and the numbers as CSV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from components.comparison.figures import figures
from components.comparison.page import page
from components.comparison.results import Results
from components.marks import around_marks, put_between_marks
from perscen.errors import ConfigError
from perscen.experiments.cells import cells_table
from perscen.experiments.rows import Table
from perscen.staging import write_whole

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("components.comparison", "."), autoescape=True, undefined=StrictUndefined
)


def check_place(table: Table, out: Path, *, name: str) -> None:
    """Check that :func:`write_files` can write, before hours go into what it would write.

    Raises:
        ConfigError: ``out`` is no place to write to.
        ArtifactError: The Markdown page has no place for the text.
    """
    nearest = next(place for place in (out, *out.parents) if os.access(place, os.F_OK))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--out {out} cannot be written to: {nearest} is no folder that you may write to",
            hint="name another folder",
        )
    around_marks(out / f"{name}.md", made_by=_made_by(table))


def write_files(results: Results, out: Path, *, name: str) -> list[Path]:
    """Write everything below ``out`` under names that begin with ``name``, and return where.

    What stands on the Markdown page around its marks stays. The HTML page needs no other file.
    Each file is whole: the new one, or what was there before.

    Raises:
        ArtifactError: The Markdown page has no place for the text; no file is written.
        StorageFull: There is no room.
    """
    drawn = list(figures(results))
    places = {shown: f"{name}-{figure}.svg" for figure, shown, _ in drawn}
    markdown = page(results, places)
    others = {
        ".html": _html(results, [svg for _, _, svg in drawn]),
        **{end: table(results).write_csv(float_precision=6) for end, table in _CSV.items()},
        **{f"-{figure}.svg": svg for figure, _, svg in drawn},
    }
    out.mkdir(parents=True, exist_ok=True)
    put_between_marks(out / f"{name}.md", markdown, made_by=_made_by(results.table))
    for end, text in others.items():
        write_whole(out / f"{name}{end}", text)
    return [out / f"{name}{end}" for end in (".md", *others)]


def _made_by(table: Table) -> str:
    return f"perscen compare, table {table.name}"


def _html(results: Results, drawings: list[str]) -> str:
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(page(results, {}))
    return _ENVIRONMENT.get_template("page.html.j2").render(
        title=results.table.title,
        body=Markup(body),  # noqa: S704 (our own tables, escaped where they are made)
        drawings=[Markup(svg) for svg in drawings],  # noqa: S704 (Matplotlib escapes its texts)
    )


def _differences(results: Results) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (d.row, d.other, metric, scenario, e.value, e.low, e.high, e.p_value)
            for d in results.differences
            for (metric, scenario), e in d.estimates.items()
        ],
        schema={
            **dict.fromkeys(("row", "other", "metric", "scenario"), pl.String),
            **dict.fromkeys(("difference", "low", "high", "p_value"), pl.Float64),
        },
        orient="row",
    )


def _runs(results: Results) -> pl.DataFrame:
    schema = {
        "row": pl.String,
        **dict.fromkeys(("seed", "best_epoch"), pl.Int64),
        "validation_recall": pl.Float64,
        "num_parameters": pl.Int64,
        "train_cpu_s": pl.Float64,
        "revision": pl.String,
    }
    runs = [one for facts in results.facts.values() for one in facts]
    return pl.DataFrame({n: [getattr(one, n) for one in runs] for n in schema}, schema=schema)


_CSV: Final = {
    ".csv": lambda results: cells_table(results.cells, list(results.rows)),
    "-differences.csv": _differences,
    "-runs.csv": _runs,
}
