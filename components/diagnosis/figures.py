"""Drawings of the diagnostics, in the report's style.

Letters: S scenarios, L layers, N nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from components.report import figures
from components.report.drawing import ACCENT, PAPER, PERCENT, RIVAL, WIDTH, drawing
from components.report.words import percent

_SIZE: Final = re.compile(r'width="(\d+)" height="(\d+)"')


def dots(values: Mapping[str, float], *, name: str, title: str, first: str = "") -> Markup:
    """Return a row per name with its share as a point; ``first`` is the one others are set against.

    Args:
        values: Fractions by name, in the order of the rows.
        name: Of the drawing.
        title: Above it.
        first: The row that is drawn in the leading colour.
    """
    with drawing(width=WIDTH, height=80 + 28 * len(values)) as plot:
        axes = plot.axes
        for row, (label, value) in enumerate(values.items()):
            colour = ACCENT if label == first else RIVAL
            axes.plot([value], [row], marker="o", ms=8, color=colour, mec=PAPER, ls="none")
            axes.annotate(
                percent(value),
                (1, row),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                annotation_clip=False,
            )
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PERCENT)
        plot.title(title)
        spoken = "; ".join(f"{label} {percent(value)}" for label, value in values.items())
        return plot.to_svg(name=name, label=f"{title}: {spoken}.")


def gates(table: pl.DataFrame) -> Markup:
    """Return the mean activation by scenario and layer; bars are a deviation to either side."""
    layers = table["layer"].unique(maintain_order=True).to_list()
    scenarios = table["scenario"].unique(maintain_order=True).to_list()
    mean_LS, sd_LS = (
        np.array(table[column].to_numpy(), dtype=float).reshape(len(scenarios), len(layers)).T
        for column in ("mean", "sd")
    )
    low_LS, high_LS = np.clip(mean_LS - sd_LS, 0, 1), np.clip(mean_LS + sd_LS, 0, 1)
    return figures.gates(mean_LS, low_LS, high_LS, layers=layers, scenarios=scenarios)


def side_by_side(drawings: Sequence[Markup], *, columns: int, label: str) -> Markup:
    """Return several drawings as one, row by row."""
    sizes = [tuple(map(int, _size(drawn))) for drawn in drawings]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    rows = -(-len(drawings) // columns)
    placed = [
        str(drawn).replace(
            "<svg ", f'<svg x="{n % columns * width}" y="{n // columns * height}" ', 1
        )
        for n, drawn in enumerate(drawings)
    ]
    whole = f"{columns * width} {rows * height}"
    across, down = whole.split()
    head = (
        f'<svg viewBox="0 0 {whole}" width="{across}" height="{down}" role="img" '
        f'aria-label="{Markup.escape(label)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(head + "\n".join(placed) + "</svg>")  # noqa: S704 - our own drawings


def _size(drawn: Markup) -> tuple[str, str]:
    found = _SIZE.search(str(drawn))
    assert found is not None, "a drawing says how large it is"
    return found[1], found[2]
