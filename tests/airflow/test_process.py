"""The operator that runs a step as a process: what it says, passes on, and how it is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.airflow.server import settings
from tests.airflow.stand_in import diary, stand_in
from tests.conftest import ROOT

pytestmark = pytest.mark.medium

BUG = {
    "level": "error",
    "event": "this is a bug in perscen",
    "traceback": "Traceback (most recent call last):\n  File …\nZeroDivisionError: by zero",
}
FULL = {"level": "error", "event": "no space left: 3 MiB are free", "hint": "make room"}
BEHAVIOUR = {
    "done": {"lines": [{"level": "info", "event": "42 rows", "rows": 42}, "{ no JSON"]},
    "bug": {"codes": [1], "lines": [BUG, "a last line"]},
    "full": {"codes": [74], "lines": [FULL]},
    "silent": {"codes": [70]},
    "refused": {"codes": [10]},
    "unavailable": {"codes": [75]},
    "hasty": {"checkpoint_s": 0},
    "slow": {"checkpoint_s": 60},
    "orphan": {"checkpoint_s": 0.5},
    "deaf": {"checkpoint_s": 60},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return stand_in(tmp_path_factory.mktemp("steps"), BEHAVIOUR)


@contextmanager
def attempting(home: Path, *steps: str, grace_s: float = 30) -> Iterator[subprocess.Popen[str]]:
    """Attempts at steps, one after the other, by a worker that is ours to signal."""
    environment = settings(home / "airflow", AIRFLOW__CORE__FERNET_KEY="a-secret-of-airflow")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.airflow.attempt", home, str(grace_s), *steps],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def step_and_watcher(worker: subprocess.Popen[str]) -> list[psutil.Process]:
    """The two processes of an attempt, once each has its own command line."""
    deadline = time.monotonic() + 60
    while True:
        started = psutil.Process(worker.pid).children()
        watching = [one for one in started if any("_watch.py" in w for w in one.cmdline())]
        if len(started) == 2 and len(watching) == 1:
            return started
        assert time.monotonic() < deadline, started
        time.sleep(0.01)


def told(printed: str) -> dict[str, Any]:
    lines = [line for line in printed.splitlines() if line.startswith('{"')]
    return {step: ended for line in lines for step, ended in json.loads(line).items()}


def wait_for(home: Path, line: str) -> None:
    deadline = time.monotonic() + 120
    while line not in diary(home):
        assert time.monotonic() < deadline, diary(home)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def printed(home) -> str:
    """What a worker printed that made six attempts, none of them disturbed."""
    steps = ("done", "bug", "full", "silent", "refused", "unavailable")
    with attempting(home, *steps) as worker:
        return worker.communicate(timeout=300)[0]


@pytest.mark.parametrize(
    ("step", "raised", "message"),
    [
        ("bug", "AirflowFailException", "exit code 1: this is a bug in perscen: ZeroDivisionError"),
        ("full", "AirflowFailException", "3 MiB are free\nwhat to do: make room"),
        ("silent", "AirflowFailException", "exit code 70: it gave no reason"),
        ("refused", "AirflowSkipException", "refused ended with exit code 10"),
        ("unavailable", "AirflowException", "unavailable ended with exit code 75"),
    ],
)
def test_an_exit_code_becomes_what_the_failure_policy_says(printed, step, raised, message):
    ended = told(printed)[step]
    assert ended["raised"] == raised
    assert message in ended["message"]


def test_a_step_that_ends_well_hands_over_its_result(printed):
    assert told(printed)["done"]["result"]["run_id"] == "the run"


def test_the_steps_lines_stand_in_the_tasks_log_with_their_values(printed):
    assert "42 rows" in printed
    assert "rows=42" in printed
    assert "{ no JSON" in printed
    assert "a last line" in printed


def test_a_step_sees_nothing_of_airflows_own_settings(printed):
    assert "airflow=[]" in printed
    assert "a-secret-of-airflow" not in printed


@pytest.fixture(scope="module")
def stopped(home) -> dict[str, Any]:
    """How two attempts ended whose worker was told to stop; the second step does not listen."""
    with attempting(home, "hasty", "slow", grace_s=5) as worker:
        for step in ("hasty", "slow"):
            wait_for(home, f"{step} started")
            worker.send_signal(signal.SIGTERM)
        return told(worker.communicate(timeout=60)[0])


def test_a_worker_told_to_stop_passes_it_on_and_the_preempted_step_is_tried_again(home, stopped):
    assert "hasty stopped" in diary(home)
    assert stopped["hasty"]["raised"] == "AirflowException"
    assert "exit code 75" in stopped["hasty"]["message"]


def test_a_step_that_does_not_stop_in_its_grace_is_killed_and_tried_again(home, stopped):
    assert "slow stopped" not in diary(home)
    assert stopped["slow"]["raised"] == "AirflowException"
    assert "SIGKILL" in stopped["slow"]["message"]


def test_the_step_of_a_killed_worker_is_told_to_stop_and_writes_its_checkpoint(home):
    with attempting(home, "orphan") as worker:
        wait_for(home, "orphan started")
        worker.kill()
    wait_for(home, "orphan stopped")


@pytest.mark.parametrize("told_first", [True, False])
def test_a_deaf_step_dies_after_its_grace_though_its_worker_is_killed_before(home, told_first):
    (home / "diary.txt").unlink(missing_ok=True)
    with attempting(home, "deaf", grace_s=5) as worker:
        wait_for(home, "deaf started")
        started = step_and_watcher(worker)
        [step] = [process for process in started if "deaf" in process.cmdline()]
        if told_first:
            worker.send_signal(signal.SIGTERM)
        worker.kill()  # as Airflow does five seconds after SIGTERM
        worker.wait()
        assert step.is_running(), "it has its grace"
    assert psutil.wait_procs(started, timeout=30)[1] == []
    assert "deaf stopped" not in diary(home)
