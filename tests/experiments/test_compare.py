"""``perscen compare`` for real: processes, a kill in the middle, and a row that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import polars as pl
import psutil
import pytest
from filelock import FileLock
from mlflow import MlflowClient

from components.adapters.comparisons import EXPERIMENT, KEY, ComparisonLog
from components.comparison.making import make_missing, tell
from perscen.config import EvaluateConfig
from perscen.errors import ServiceUnavailable
from perscen.experiments.making import PinnedSplits
from perscen.experiments.processes import Failure, Outcome, make_runs
from perscen.experiments.rows import ROWS
from perscen.experiments.runs import Run, RunFacts, Work
from perscen.experiments.settings import changed, settings_of
from tests.conftest import ROOT
from tests.experiments.small import pinned, write_splits

TINY = {"train.max_epochs": 1, "train.monitor_k": 5, "train.optim.lr": 0.01}
ROWS_ASKED = ("dssm_m", "perscen")
NO_SPLITS = PinnedSplits(Path("none"), "d" * 64)
"""Nobody opens them when there is nothing to make."""
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
    found = sorted(root.glob("work/*/[!.]*/facts.json"))  # not what is still in scratch
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


BLOCKED = """
import sys
from pathlib import Path
from perscen.config import EvaluateConfig
from perscen.experiments.making import PinnedSplits
from perscen.experiments.processes import make_runs
from perscen.experiments.rows import ROWS
from perscen.experiments.runs import Run, Work
from perscen.experiments.settings import settings_of

if __name__ == "__main__":
    run = Run(ROWS["random"], settings_of(ROWS["random"], evaluate=EvaluateConfig()), 0)
    root = Path(sys.argv[1])
    splits = PinnedSplits(root / "splits", "d" * 64)
    list(make_runs([run], splits, Work(root / "work", splits_digest="d" * 64), jobs=1))
"""


@pytest.mark.medium
def test_no_process_outlives_a_killed_parent_whatever_it_does(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/manifest.json").write_text(json.dumps({"digest": "d" * 64}))
    os.mkfifo(tmp_path / "splits/scalers.json")  # who reads it waits for ever
    (tmp_path / "blocked.py").write_text(BLOCKED)
    parent = subprocess.Popen(
        [sys.executable, "blocked.py", "."], cwd=tmp_path, env=environment(tmp_path)
    )
    gates = []

    def reads() -> bool:
        with suppress(OSError):  # as long as nobody does
            gates.append(os.open(tmp_path / "splits/scalers.json", os.O_WRONLY | os.O_NONBLOCK))
        return bool(gates)

    wait_for(reads, seconds=120)
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    for one in alive:
        one.kill()
    os.close(gates[0])
    assert alive == []


@pytest.mark.medium
def test_ctrl_c_ends_a_comparison_in_one_line_however_early_it_comes(tmp_path):
    write_splits(tmp_path / "splits")
    started = subprocess.Popen(
        command(tmp_path, "--jobs", "2"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def imports() -> bool:
        with suppress(psutil.NoSuchProcess):  # git and uname come and go; zombies are such too
            children = psutil.Process(started.pid).children()
            spawned = [one for one in children if "spawn_main" in " ".join(one.cmdline())]
            return any(one.cpu_times().user > 0.5 for one in spawned)
        return False

    wait_for(imports, seconds=240)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "interrupted; nothing half-written was kept" in said
    assert "Traceback" not in said


def finished_run(work: Work, *, recall: float = 0.5) -> Run:
    """Keep a run of a ranker with three users of one scenario."""
    row = ROWS["random"]
    run = Run(row, settings_of(row, evaluate=EvaluateConfig(ks=(5,))), 0)
    scores = pl.DataFrame(
        {
            "scenario": ["home (new)"] * 3,
            "user_id": ["a", "b", "c"],
            "num_relevant": [1] * 3,
            "recall_5": [recall] * 3,
            "hits_5": [recall] * 3,
        }
    )
    facts = RunFacts(row="random", seed=0, settings=run.settings.tree(), splits_digest="d" * 64)
    work.keep(run, scores, facts)
    return run


@pytest.fixture
def server(tmp_path, monkeypatch) -> str:
    """The address of a tracking server, which the environment names."""
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


def logged_in(server: str) -> list:
    client = MlflowClient(server)
    return client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])


@pytest.mark.medium
def test_a_run_is_logged_once_and_again_when_it_comes_to_something_else(tmp_path, server):
    work = Work(tmp_path / "work", splits_digest="d" * 64)
    for recall, known in ((0.5, 1), (0.5, 1), (0.25, 2)):
        run = finished_run(work, recall=recall)
        make_missing([run], NO_SPLITS, work, jobs=1, run_id="r")
        values = [one.data.metrics["recall_5/macro"] for one in logged_in(server)]
        assert len(values) == known
        assert recall in values


@pytest.mark.medium
def test_a_scenario_of_any_name_is_logged_under_one_that_mlflow_takes(tmp_path, server):
    work = Work(tmp_path / "work", splits_digest="d" * 64)
    make_missing([finished_run(work)], NO_SPLITS, work, jobs=1, run_id="r")
    (run,) = logged_in(server)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["recall_5/home _new_"] == 0.5
    # Beside the database, wherever the program runs.
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())


@pytest.mark.medium
def test_a_run_that_mlflow_refuses_is_told_as_that_and_the_others_are_logged(server, caplog):
    log = ComparisonLog(tracking_uri=server)
    log_run = partial(log.log, tags={}, settings={}, epochs=(), monitor_k=5, files=())
    log_run("first", metrics={"recall_5/../x": 0.5})
    log_run("second", metrics={"recall_5/x": 0.5})
    status = {run.data.tags[KEY]: run.info.status for run in logged_in(server)}
    assert status == {"first": "FAILED", "second": "FINISHED"}
    (told,) = caplog.records
    assert told.message == "tracking server refused a run, the comparison goes on"
    assert "recall_5/../x" in told.reason


@pytest.mark.medium
def test_a_server_that_is_gone_costs_one_warning(caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log = ComparisonLog(tracking_uri="http://127.0.0.1:9")
    for key in ("first", "second"):
        log.log(key, tags={}, settings={}, metrics={}, epochs=(), monitor_k=5, files=())
    assert [told.message for told in caplog.records] == [
        "tracking server not reached, the comparison goes on"
    ]


def test_a_second_comparison_in_one_place_is_told_at_once(tmp_path):
    work = Work(tmp_path, splits_digest="d" * 64)
    with (
        FileLock(tmp_path / ".lock-dddddddddddd"),
        pytest.raises(ServiceUnavailable) as told,
    ):
        make_missing([], NO_SPLITS, work, jobs=1, run_id="r")
    assert f"another attempt is still making {work.directory}" in told.value.message
    assert "--work" in told.value.hint


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
    outcomes = {o.run.key: o for o in make_runs([diverges, fine], pinned(splits), work, jobs=2)}

    failure = outcomes[diverges.key].failure
    assert failure.kind == "TrainingDiverged"
    assert "not finite" in failure.reason or "the loss is" in failure.reason
    assert work.facts(diverges) is None
    assert outcomes[fine.key].facts == work.facts(fine)
    assert outcomes[fine.key].facts.best_epoch == 1
    assert not list(work.directory.glob(".staged-*"))
