"""What a comparison writes: a page in Markdown and HTML, figures, and the numbers as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from components.comparison.figures import figures
from components.comparison.page import page
from components.comparison.results import Results
from components.marks import put_between_marks
from perscen.experiments.cells import cells_table

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("components.comparison", "."), autoescape=True, undefined=StrictUndefined
)


def write_files(results: Results, out: Path, *, name: str) -> list[Path]:
    """Write everything below ``out`` under names that begin with ``name``, and return where.

    What stands on the Markdown page around its marks stays. The HTML page needs no other file.

    Raises:
        ArtifactError: The Markdown page has no place for the text.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = list(figures(results))
    written = [out / f"{name}{end}" for end in (".md", ".html", *_CSV)]
    for figure, _, svg in drawn:
        written.append(out / f"{name}-{figure}.svg")
        written[-1].write_text(svg, encoding="utf-8")
    places = {shown: f"{name}-{figure}.svg" for figure, shown, _ in drawn}
    made_by = f"perscen compare, table {results.table.name}"
    put_between_marks(written[0], page(results, places), made_by=made_by)
    written[1].write_text(_html(results, [svg for _, _, svg in drawn]), encoding="utf-8")
    for end, table in _CSV.items():
        table(results).write_csv(out / f"{name}{end}", float_precision=6)
    return written


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
