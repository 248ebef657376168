"""What a replay showed: one line per day, a plot of what served, and the numbers as CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from bench.replay.world import Plan, World
from perscen.evaluation.verdict import Verdict, read_verdict

_FAULT = {"bad_logs": "bad logs", "bad_model": "broken scenario"}
_MARKERS = "osD^vP"


def collect(
    world: World, plan: Plan, states: Mapping[date, Mapping[str, str]]
) -> tuple[list[dict[str, str]], pl.DataFrame]:
    """Return one line per day, and the recall per day and scenario.

    Args:
        world: A replay that has ended.
        plan: Its days.
        states: State of each task, by name, for each day.

    Returns:
        The table's lines; and a frame of ``day, scenario, users, candidate, champion, popularity,
        served, margin, low``, where ``served`` is the recall of what serves after that day.
    """
    lines, recalls = [], []
    for day in plan.days():
        directory = world.runs / str(day)
        verdict = read_verdict(directory / "verdict") if (directory / "verdict").exists() else None
        lines.append(_line(day, plan, directory, states[day], verdict))
        for row in verdict.scenarios if verdict else ():
            released = states[day]["publish"] == "success"
            recalls.append(
                {
                    "day": day,
                    "scenario": row.scenario,
                    "users": row.num_users,
                    "candidate": row.candidate_recall,
                    "champion": row.champion_recall,
                    "popularity": row.popularity_recall,
                    "served": row.candidate_recall if released else row.champion_recall,
                    "low": row.low,
                    "margin": row.margin,
                    "outcome": row.outcome.value,
                }
            )
    return lines, pl.DataFrame(recalls)


def _line(
    day: date, plan: Plan, directory: Path, states: Mapping[str, str], verdict: Verdict | None
) -> dict[str, str]:
    planted = [word for name, word in _FAULT.items() if getattr(plan, name) == day]
    splits = directory / "splits" / "manifest.json"
    release = directory / "release" / "release.json"
    windows = "–"
    if splits.exists():
        manifest = json.loads(splits.read_text())
        windows = " · ".join(_span(manifest[name]) for name in ("train", "valid", "test"))
    version = f"version {json.loads(release.read_text())['version']}" if release.exists() else "–"
    failed = [name for name, state in states.items() if state == "failed"]
    return {
        "logical date": str(day),
        "planted": ", ".join(planted) or "–",
        "train · valid · test": windows,
        "stopped at": ", ".join(failed) or "–",
        "verdict": verdict.decision.value if verdict else "–",
        "because of": _blocking(verdict) or "–",
        "`publish`": states["publish"].replace("_", " "),
        "release": version,
    }


def _blocking(verdict: Verdict | None) -> str:
    """Return which gates blocked the release, and in which scenarios."""
    findings = [finding for finding in verdict.findings if finding.blocks] if verdict else []
    gates: dict[str, list[str]] = {}
    for finding in findings:
        gates.setdefault(finding.gate, []).append(finding.scenario or "all")
    return "; ".join(f"{gate}, scenario {', '.join(where)}" for gate, where in gates.items())


def _span(window: Mapping[str, str]) -> str:
    first, last = window["first"][5:], window["last"][5:]
    return first if first == last else f"{first}…{last}"


def table(lines: Sequence[Mapping[str, str]]) -> str:
    """Return the lines as a Markdown table."""
    names = list(lines[0])
    rows = [names, ["---"] * len(names), *([line[name] for name in names] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def recall_table(recalls: pl.DataFrame) -> str:
    """Return what serves after each day, per scenario, in percent, beside popularity's."""
    scenarios = recalls["scenario"].unique(maintain_order=True).to_list()
    rows = [["logical date", *(f"scenario {name}" for name in scenarios)]]
    rows.append(["---"] * (1 + len(scenarios)))
    for (day,), frame in recalls.group_by("day", maintain_order=True):
        cells = {row["scenario"]: row for row in frame.iter_rows(named=True)}
        rows.append([str(day), *(_cell(cells.get(name)) for name in scenarios)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _cell(row: Mapping[str, float | None] | None) -> str:
    if row is None or row["served"] is None:
        return "–"
    popularity = row["popularity"]
    beside = "" if popularity is None else f" ({100 * popularity:.1f})"
    return f"{100 * row['served']:.1f}{beside}, n {row['users']}"


def plot(recalls: pl.DataFrame, plan: Plan, path: Path) -> None:
    """Draw the champion's recall per scenario over the days; days that ended otherwise are shaded.

    A refused candidate's recall is a cross: it never served.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    days = plan.days()
    at = {day: n for n, day in enumerate(days)}
    for number, ((scenario,), frame) in enumerate(
        recalls.group_by("scenario", maintain_order=True)
    ):
        frame = frame.sort("day")
        x = [at[day] for day in frame["day"]]
        colour, marker = f"C{number}", _MARKERS[number % len(_MARKERS)]
        served = [100 * v if v is not None else float("nan") for v in frame["served"]]
        axes.plot(x, served, color=colour, marker=marker, label=f"scenario {scenario}")
        refused = frame.filter(pl.col("served").ne_missing(pl.col("candidate")))
        axes.scatter(
            [at[day] for day in refused["day"]],
            [100 * v for v in refused["candidate"]],
            color=colour,
            marker="x",
        )
    for day, word in ((plan.bad_logs, "bad logs"), (plan.bad_model, "model refused")):
        axes.axvspan(at[day] - 0.4, at[day] + 0.4, color="0.9", zorder=0)
        axes.text(at[day], 1, word, ha="center", transform=axes.get_xaxis_transform(), va="bottom")
    axes.set_xticks(range(len(days)), [day.strftime("%m-%d") for day in days])
    axes.set_ylabel("recall@50 of what serves, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, ncols=2)
    figure.savefig(path, metadata={"Date": None})
