"""The page's charts: arrays in, inline SVG out.

Letters: S scenarios, L layers, D days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from textwrap import wrap
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from components.report.drawing import (
    ACCENT,
    BAD,
    GOOD,
    INK,
    MUTED,
    PAPER,
    PERCENT,
    RIVAL,
    WARN,
    WIDTH,
    drawing,
    series,
)
from components.report.words import listed, percent, short, short_day, whole

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A recall with its interval, for a row of :func:`recalls`."""

    name: str
    value: float
    low: float | None
    high: float | None
    candidate: bool


def recalls(scenario: str, estimates: Sequence[Estimate], *, k: int, over: str = "") -> Markup:
    """Return one scenario's recalls, a row per model, as points with their intervals.

    Args:
        scenario: Its name.
        estimates: The rows.
        k: Of Recall@K.
        over: What the recalls are of, in words, when not of a scenario.
    """
    over = over or f"scenario {short(scenario, 36)}"
    names = [_in_lines(e.name) for e in estimates]
    room = 36 if any("\n" in name for name in names) else 30
    spoken = "; ".join(
        f"{e.name} {percent(e.value)}"
        + ("" if e.low is None else f" (from {percent(e.low)} to {percent(e.high)})")
        for e in estimates
    )
    with drawing(width=WIDTH, height=66 + room * len(estimates)) as plot:
        axes = plot.axes
        for row, e in enumerate(estimates):
            colour = ACCENT if e.candidate else RIVAL
            if e.low is not None and e.high is not None:
                axes.plot([e.low, e.high], [row, row], color=colour, lw=2.5, solid_capstyle="round")
            axes.plot(
                [e.value],
                [row],
                marker="o" if e.candidate else "D",
                ms=9 if e.candidate else 6.5,
                color=colour,
                mec=PAPER,
                mew=1.2,
            )
            axes.annotate(
                percent(e.value),
                (1, row),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                weight="bold" if e.candidate else "normal",
                color=INK if e.candidate else MUTED,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(estimates)), names)
        for tick, e in zip(axes.get_yticklabels(), estimates, strict=True):
            tick.set(color=INK, weight="bold" if e.candidate else "normal")
        axes.set_ylim(len(estimates) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PERCENT)
        plot.title(f"Recall@{k}, {over}")
        return plot.to_svg(name=f"recall-{scenario}", label=f"Recall at {k}, {over}: {spoken}.")


def _in_lines(name: str) -> str:
    """Return a name in at most two lines that leave most of the width to the axes."""
    return "\n".join(wrap(name, 28, max_lines=2, placeholder="…", break_on_hyphens=False))


def curves(
    lines: Mapping[str, Sequence[float]],
    *,
    epochs: Sequence[int],
    best_epoch: int,
    title: str,
    name: str,
    label: str,
    shares: bool,
    colours: Sequence[tuple[str, str]],
) -> Markup:
    """Return lines over the epochs, the best one marked; ``shares`` sets the axis in percent."""
    with drawing(width=WIDTH, height=320) as plot:
        axes = plot.axes
        axes.axvline(best_epoch, color=MUTED, lw=1, ls=(0, (4, 3)))
        axes.annotate(
            f"best: {best_epoch}",
            (best_epoch, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            size=11,
            color=MUTED,
        )
        for (line, values), (colour, marker) in zip(lines.items(), colours, strict=True):
            axes.plot(
                epochs,
                values,
                color=colour,
                marker=marker,
                ms=4.5,
                mec=PAPER,
                label=short(line, 24),
            )
        if len(lines) > 1:
            plot.legend()
        plot.title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if shares:
            axes.yaxis.set_major_formatter(PERCENT)
        return plot.to_svg(name=name, label=label)


def gates(
    mean_LS: Floats,
    low_LS: Floats,
    high_LS: Floats,
    *,
    layers: Sequence[str],
    scenarios: Sequence[str],
) -> Markup:
    """Return the mean gate activation per layer and scenario, with the middle 80 % of values."""
    num_layers, num_scenarios = mean_LS.shape
    with drawing(width=WIDTH, height=470) as plot:
        axes = plot.axes
        for position, scenario in enumerate(scenarios):
            colour, marker = series(position)
            x_L = np.arange(num_layers) + (position - (num_scenarios - 1) / 2) * 0.16
            axes.vlines(
                x_L, low_LS[:, position], high_LS[:, position], color=colour, lw=3, alpha=0.45
            )
            axes.plot(
                x_L,
                mean_LS[:, position],
                color=colour,
                marker=marker,
                ms=8,
                mec=PAPER,
                ls="none",
                label=short(f"scenario {scenario}", 24),
            )
        axes.set_xticks(range(num_layers), layers)
        axes.set_xlim(-0.6, num_layers - 0.4)
        axes.set_ylim(0, 1)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("gate activation")
        plot.legend()
        spoken = "; ".join(
            f"scenario {s} " + ", ".join(f"{m:.2f}" for m in mean_LS[:, i])
            for i, s in enumerate(scenarios)
        )
        return plot.to_svg(
            name="gates", label=f"Mean gate activation of {listed(tuple(layers))}: {spoken}."
        )


@dataclass(frozen=True)
class DayBar:
    """One day of :func:`days`."""

    date: date
    good: int
    quarantined: int
    dropped: int
    excluded: bool


def days(bars: Sequence[DayBar]) -> Markup:
    """Return the rows of each day by what became of them."""
    x_D = np.arange(len(bars))
    with drawing(width=WIDTH, height=320) as plot:
        axes = plot.axes
        bottom_D = np.zeros(len(bars))
        kept_D = np.array([0 if b.excluded else b.good for b in bars], dtype=float)
        left_out_D = np.array([b.good if b.excluded else 0 for b in bars], dtype=float)
        parts: tuple[tuple[str, Floats, dict[str, Any]], ...] = (
            ("good", kept_D, {"color": GOOD}),
            ("in a day left out", left_out_D, {"color": "none", "ec": BAD, "hatch": "////"}),
            ("dropped as duplicates", np.array([float(b.dropped) for b in bars]), {"color": MUTED}),
            ("quarantined", np.array([float(b.quarantined) for b in bars]), {"color": WARN}),
        )
        for name, rows_D, look in parts:
            if rows_D.any():
                axes.bar(x_D, rows_D, bottom=bottom_D, width=0.72, label=name, **look)
                bottom_D = bottom_D + rows_D
        _date_axis(axes, [b.date for b in bars])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rows, _: whole(int(rows))))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="x", visible=False)
        plot.title("Rows per day")
        plot.legend()
        out = [short_day(b.date) for b in bars if b.excluded]
        return plot.to_svg(
            name="days",
            label=f"Rows per day over {len(bars)} days; "
            + (f"left out: {', '.join(out)}." if out else "no day was left out."),
        )


def clicks(
    clicks_SD: NDArray[np.int64], *, dates: Sequence[date], scenarios: Sequence[str]
) -> Markup:
    """Return the clicks of each scenario by day on a logarithmic axis; none breaks the line."""
    with drawing(width=WIDTH, height=320) as plot:
        axes = plot.axes
        for position, scenario in enumerate(scenarios):
            colour, marker = series(position)
            line_D = np.where(clicks_SD[position] > 0, clicks_SD[position], np.nan)
            axes.plot(
                line_D,
                color=colour,
                marker=marker,
                ms=5,
                mec=PAPER,
                label=short(f"scenario {scenario}", 24),
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rows, _: whole(int(rows))))
        axes.yaxis.set_minor_formatter("")
        axes.tick_params(which="minor", size=0)
        _date_axis(axes, dates)
        plot.title("Clicks per scenario")
        plot.legend()
        spoken = "; ".join(
            f"scenario {s} {whole(int(clicks_SD[i].min()))} to {whole(int(clicks_SD[i].max()))}"
            for i, s in enumerate(scenarios)
        )
        return plot.to_svg(name="clicks", label=f"Clicks per day over {len(dates)} days: {spoken}.")


def _date_axis(axes: Axes, dates: Sequence[date]) -> None:
    every = max(1, -(-len(dates) // 6))
    axes.set_xticks(range(0, len(dates), every), [short_day(d) for d in dates[::every]])
