"""``perscen compare`` for real: processes, a kill in the middle, and a row that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
from mlflow import MlflowClient

from components.adapters.comparisons import EXPERIMENT, KEY
from components.comparison.making import tell
from perscen.config import EvaluateConfig
from perscen.experiments.processes import Failure, Outcome, make_runs
from perscen.experiments.rows import ROWS
from perscen.experiments.runs import Run, Work
from perscen.experiments.settings import changed, settings_of
from tests.conftest import ROOT
from tests.experiments.small import write_splits

TINY = {"train.max_epochs": 1, "train.monitor_k": 5, "train.optim.lr": 0.01}
ROWS_ASKED = ("dssm_m", "perscen")
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def command(root: Path, *more: str) -> list[str]:
    changes = [f"{name}={value}" for name, value in TINY.items()]
    return [
        *(sys.executable, "-m", "components", "compare", str(root / "splits")),
        *("--families", *ROWS_ASKED, "--set", *changes, "--seeds", "2", "--ks", "5", "10"),
        *("--work", str(root / "work"), "--out", str(root / "out"), *more),
    ]


def environment(root: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
    }


def finished(root: Path) -> dict[str, int]:
    """When each finished run was written, by its folder's name."""
    found = sorted(root.glob("work/*/*/facts.json"))
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def wait_for(condition, *, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass in time"
        time.sleep(0.05)


@pytest.mark.medium
def test_a_comparison_killed_in_the_middle_goes_on_where_it_was(tmp_path):
    write_splits(tmp_path / "splits")
    started = subprocess.Popen(
        command(tmp_path, "--jobs", "1"), cwd=tmp_path, env=environment(tmp_path)
    )
    wait_for(lambda: finished(tmp_path), seconds=240)  # and then the next one has begun
    wait_for(lambda: psutil.Process(started.pid).children(), seconds=60)
    children = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGKILL)
    started.wait()
    # Nobody is left who works on: trainings watch over their parent.
    _, alive = psutil.wait_procs(children, timeout=120)
    assert alive == []
    before = finished(tmp_path)
    assert 1 <= len(before) < 4

    again = subprocess.run(
        command(tmp_path), cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )

    assert again.returncode == 0, again.stderr
    assert f"{len(before)} of 4 runs are finished" in again.stderr
    after = finished(tmp_path)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before  # none was made twice
    cells = pl.read_csv(tmp_path / "out/rows.csv")
    assert set(cells["row"]) == set(ROWS_ASKED)
    assert set(cells["num_seeds"]) == {2}
    assert "Not whole" not in (tmp_path / "out/rows.md").read_text()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    logged = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    keys = [run.data.tags[KEY].split("/")[1] for run in logged]
    assert sorted(keys) == sorted(after)  # each once
    run = next(run for run in logged if run.data.tags["row"] == "dssm_m")
    assert run.data.params["model.family"] == "dssm"
    assert run.data.metrics["recall_5/macro"] == pytest.approx(
        cells.filter(row="dssm_m", metric="recall_5", scenario="macro")[
            f"seed_{run.data.params['seed']}"
        ].item(),
        abs=1e-6,
    )
    files = [file.path for file in client.list_artifacts(run.info.run_id)]
    assert files == ["per_user.parquet"]


def test_failures_are_told_and_leave_with_the_code_of_the_first(caplog):
    row = ROWS["dssm_m"]
    run = Run(row, settings_of(row, evaluate=EvaluateConfig()), 3)
    diverged = Failure("the loss is nan", kind="TrainingDiverged", hint="lower train.optim.lr")
    died = Failure("its process was ended by SIGKILL")
    assert tell([Outcome(run, failure=diverged), Outcome(run, failure=died)]) == 70
    assert tell([Outcome(run, failure=died)]) == 1
    assert "dssm_m seed 3 failed: the loss is nan" in caplog.text
    assert caplog.records[0].hint == "lower train.optim.lr; run the same command to make it again"


@pytest.mark.medium
def test_a_run_that_fails_is_named_and_does_not_stop_the_others(tmp_path):
    splits = write_splits(tmp_path / "splits", num_users=20, num_items=20)
    work = Work(tmp_path / "work", splits_digest="d" * 64)

    def run(**changes) -> Run:
        row = changed(ROWS["dssm_m"], recipe=None, changes={**TINY, **changes})
        return Run(row, settings_of(row, evaluate=EvaluateConfig(ks=(5,))), 0)

    diverges, fine = run(**{"train.optim.lr": 1e30}), run()
    outcomes = {o.run.key: o for o in make_runs([diverges, fine], splits, work, jobs=2)}

    failure = outcomes[diverges.key].failure
    assert failure.kind == "TrainingDiverged"
    assert "not finite" in failure.reason or "the loss is" in failure.reason
    assert work.facts(diverges) is None
    assert outcomes[fine.key].facts == work.facts(fine)
    assert outcomes[fine.key].facts.best_epoch == 1
    assert not list(work.directory.glob(".staged-*"))
