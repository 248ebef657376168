"""From a Matplotlib figure to an inline SVG that takes its colours and its type from the page.

Figures are drawn in stand-in colours, which are then exchanged for CSS variables: one drawing
serves the light page, the dark page and the printer. The same data give the same bytes.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import matplotlib as mpl
import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from components.report.words import THIN

INK: Final = "#010101"
MUTED: Final = "#010102"
GRID: Final = "#010103"
PAPER: Final = "#010104"
ACCENT: Final = "#010105"
RIVAL: Final = "#010106"
GOOD: Final = "#010107"
BAD: Final = "#010108"
WARN: Final = "#010109"
_SERIES: Final = tuple(f"#0102{n:02x}" for n in range(8))
_VARIABLES: Final = {
    INK: "ink",
    MUTED: "muted",
    GRID: "line",
    PAPER: "paper",
    ACCENT: "accent",
    RIVAL: "rival",
    GOOD: "good",
    BAD: "bad",
    WARN: "warn",
    **{colour: f"series-{n}" for n, colour in enumerate(_SERIES)},
}
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "h")
"""Shapes go with the colours, for eyes and printers that cannot tell these apart."""

_VARIABLE: Final = re.compile(r"var\(--([\w-]+)\)")

WIDTH: Final = 500
"""All figures are half a page wide: two in a row at a desk, one on a phone, readable on both."""
PERCENT: Final = FuncFormatter(lambda share, _: f"{round(100 * share, 6):g}{THIN}%")
"""Shares along an axis, without trailing zeros."""
HEAT_RGB: Final = (0.145, 0.388, 0.780)
"""Full strength of a heat map; weaker values are more transparent: the page shows through."""

_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "lines.linewidth": 2.0,
}


def series(position: int) -> tuple[str, str]:
    """Return the colour and the marker of the n-th scenario."""
    return _SERIES[position % len(_SERIES)], MARKERS[position % len(MARKERS)]


@dataclass(frozen=True)
class Drawing:
    """An empty drawing in the page's style."""

    canvas: Canvas
    axes: Axes

    def title(self, text: str) -> None:
        """Set the heading, flush with the drawing's left edge."""
        self.canvas.suptitle(text, x=0.005, ha="left", size=13, weight="bold")

    def legend(self, **options: float) -> None:
        """Set the legend below the axes, in as many columns as fit."""
        _, names = self.axes.get_legend_handles_labels()
        columns = int(self.canvas.get_figwidth() * 72 / (45 + 7.5 * max(map(len, names))))
        self.canvas.legend(loc="outside lower center", ncols=max(1, columns), **options)

    def to_svg(self, *, name: str, label: str) -> Markup:
        """Return the drawing as an ``<svg>`` element.

        Args:
            name: Unique on the page; keeps the ids inside apart from another drawing's.
            label: What a screen reader says.
        """
        buffer = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": name}):
            self.canvas.savefig(buffer, format="svg", metadata={"Date": None})
        width, height = (round(inches * 72) for inches in self.canvas.get_size_inches())
        head = (
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="{html.escape(label)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
        )
        # Matplotlib escapes the texts it sets; the label is escaped above.
        return Markup(head + _body(buffer.getvalue()))  # noqa: S704


@contextmanager
def drawing(*, width: int, height: int) -> Iterator[Drawing]:
    """Give a drawing of ``width`` by ``height`` CSS pixels, inside which the style holds."""
    with mpl.style.context(["default", _STYLE]):
        canvas = Canvas(figsize=(width / 72, height / 72), layout="constrained")
        yield Drawing(canvas, canvas.add_subplot())


def _body(document: str) -> str:
    """Return what stands inside a document's ``<svg>``, less what only a file of its own needs."""
    body = document[document.index("<svg") :]
    body = body[body.index(">") + 1 :].strip()
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<style type=\"text/css\">.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<g id=\"[^\"]*\"", "<g", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    body = body.replace("'DejaVu Sans'", "var(--sans)")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    return body


def standalone(drawn: Markup) -> str:
    """Return a page's drawing as a document of its own, in the page's light colours on white."""
    colours = _colours()
    body = _VARIABLE.sub(lambda name: colours[name[1]], str(drawn))
    body = body.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    ground = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
    return body.replace(">", f">{ground}", 1) + "\n"


@cache
def _colours() -> dict[str, str]:
    style = files("components.report").joinpath("style.css").read_text(encoding="utf-8")
    light = style[style.index("{") : style.index("}")]
    found = dict(re.findall(r"--([\w-]+):\s*([^;]+);", light))
    return {name: value.replace('"', "'") for name, value in found.items()}
