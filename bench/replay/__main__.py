"""Replay days of logs through a real Airflow, and write what became of each.

Starts an Airflow of its own on loopback ports, backfills the daily DAG one run at a time over days
of which one has bad logs and one a model that lost a sparse scenario, runs a finished day again,
and writes ``daily-replay.md`` (between its marks), ``.svg`` and ``.csv``::

    make replay
    python -m bench.replay --raw data/raw --home build/replay --out docs/results
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import yaml

from bench.replay.results import collect, plot, recall_table, table
from bench.replay.run import Replay, run
from bench.replay.world import Plan, prepare
from components.marks import put_between_marks

SETTINGS: dict[str, dict[str, object]] = {
    # A day more than the windows need, so that they are whole when one day is left out.
    "data": {"window_days": 6},
    "split": {"train_days": 3, "valid_days": 1, "test_days": 1},
    # Enough to be well past popularity, and a week is replayed in half an hour.
    "train": {"max_epochs": 8, "num_threads": 1},
    # A tenth of the recall is below what the hundred users of a sparse scenario's day can show.
    "gate": {"absolute_margin": 0.05},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the replay and write its page."""
    day = date.fromisoformat
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="a whole raw layout")
    parser.add_argument("--home", type=Path, default=Path("build/replay"), help="a new folder")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--first", type=day, default=date(2022, 4, 29))
    parser.add_argument("--last", type=day, default=date(2022, 5, 5))
    parser.add_argument("--bad-logs", type=day, default=date(2022, 5, 1))
    parser.add_argument("--bad-model", type=day, default=date(2022, 5, 3))
    parser.add_argument("--again", type=day, default=date(2022, 5, 2), help="a day to run twice")
    parser.add_argument("--scenario", default="0", help="which one the bad model has lost")
    parser.add_argument("--settings", type=yaml.safe_load, default={}, help="YAML over recipe best")
    a = parser.parse_args(argv)
    plan = Plan(a.first, a.last, a.bad_logs, a.bad_model, a.scenario)
    if a.home.exists():
        parser.error(f"--home {a.home} exists: a replay begins in a new folder")
    a.home.mkdir(parents=True)
    world = prepare(a.home, a.raw, plan, _merged(SETTINGS, a.settings))
    replay = run(world, plan, again=a.again)
    lines, recalls = collect(world, plan, replay.states)
    a.out.mkdir(parents=True, exist_ok=True)
    recalls.write_csv(a.out / "daily-replay.csv", float_precision=6)
    plot(recalls, plan, a.out / "daily-replay.svg")
    page = f"{table(lines)}\n{_again(replay, a.again)}\n\n{recall_table(recalls)}"
    put_between_marks(a.out / "daily-replay.md", page, made_by="bench.replay")
    print(page)


def _merged(
    settings: dict[str, dict[str, object]], over: dict[str, dict[str, object]]
) -> dict[str, dict[str, object]]:
    return {name: {**settings.get(name, {}), **over.get(name, {})} for name in settings | over}


def _again(replay: Replay, day: date) -> str:
    changed = ", ".join(replay.changed_by_rerun) or "nothing"
    return (
        f"{replay.num_releases} releases started {replay.num_refreshes} runs of `perscen_refresh`. "
        f"{day} was run again after the last day; changed: {changed}."
    )


if __name__ == "__main__":
    main()
