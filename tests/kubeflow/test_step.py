"""What runs inside a Kubeflow task: a step's process, its exit codes, its Result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dags._kubeflow_step import logical_day, run_step
from tests.conftest import ROOT

PYTHON = (sys.executable, "-I", "-S")  # starts fastest
STEP = """\
import json, os, pathlib, signal, sys
here = pathlib.Path(sys.argv[1])
codes = json.loads((here / "codes").read_text())
(here / "codes").write_text(json.dumps(codes[1:]))
with (here / "runs").open("a") as file:
    file.write(os.environ["PERSCEN_RUN_ID"] + " ")
if codes[0] < 0:
    os.kill(os.getpid(), -codes[0])
if codes[0] == 0:
    result = {"step": "train", "digest": "ab", "mlflow_run_id": None}
    pathlib.Path(os.environ["PERSCEN_RESULT"]).write_text(json.dumps(result))
sys.exit(codes[0])
"""
"""A step that ends with one exit code after the other."""


@pytest.fixture(autouse=True)
def own_handler():
    """Give back this process's way of taking SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(here: Path, codes: list[int], **settings: object) -> dict[str, object]:
    (here / "codes").write_text(str(codes))
    (here / "step.py").write_text(STEP)
    argv = [*PYTHON, str(here / "step.py"), str(here)]
    return run_step(argv, run_id="run-1", **{"retries": 2, "retry_delay_s": 0, **settings})


def runs(here: Path) -> list[str]:
    return (here / "runs").read_text().split()


def test_a_step_that_is_done_gives_its_result_without_nulls(tmp_path):
    assert run(tmp_path, [0]) == {"step": "train", "digest": "ab"}
    assert runs(tmp_path) == ["run-1"]


def test_a_refusal_is_a_result_where_one_is_expected(tmp_path):
    assert run(tmp_path, [10], refused={"released": False}) == {"released": False}
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize("code", [1, 10, 65])
def test_what_would_fail_again_is_not_tried_again_and_keeps_its_code(tmp_path, code):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, [code])
    assert left.value.code == code
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize("code", [75, -signal.SIGKILL])
def test_what_may_pass_is_tried_again(tmp_path, code):
    assert run(tmp_path, [code, code, 0])["digest"] == "ab"
    assert len(runs(tmp_path)) == 3


@pytest.mark.parametrize(("code", "told"), [(75, 75), (-signal.SIGKILL, 137)])
def test_what_does_not_pass_is_given_up_with_its_code_as_a_container_has_it(tmp_path, code, told):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, [code] * 3)
    assert left.value.code == told
    assert len(runs(tmp_path)) == 3


WAITS = """\
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def stop(*_):
    (here / "checkpoint").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
(here / f"started-{os.getpid()}").touch()
time.sleep(60)
"""
BODY = """\
import sys
from dags._kubeflow_step import run_step
argv = [sys.executable, "-I", "-S", *sys.argv[1:]]
run_step(argv, run_id="r", retries=3, retry_delay_s={delay})
"""


def wait_for_start(here: Path) -> None:
    for _ in range(1500):
        if any(here.glob("started-*")):
            return
        time.sleep(0.02)
    raise AssertionError("the step did not start")


def test_a_pod_told_to_stop_lets_the_step_write_its_checkpoint_and_does_not_start_it_again(
    tmp_path,
):
    (tmp_path / "step.py").write_text(WAITS)
    argv = [
        sys.executable,
        "-S",
        "-c",
        BODY.format(delay=0),
        str(tmp_path / "step.py"),
        str(tmp_path),
    ]
    with subprocess.Popen(argv, cwd=ROOT) as body:
        wait_for_start(tmp_path)
        body.terminate()
        assert body.wait(timeout=30) == 75
    assert (tmp_path / "checkpoint").exists()
    assert len(list(tmp_path.glob("started-*"))) == 1


def test_a_pod_told_to_stop_between_two_attempts_starts_no_other(tmp_path):
    (tmp_path / "codes").write_text("[75, 0]")
    (tmp_path / "step.py").write_text(STEP)
    argv = [
        sys.executable,
        "-S",
        "-c",
        BODY.format(delay=60),
        str(tmp_path / "step.py"),
        str(tmp_path),
    ]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as body:
        assert body.stderr is not None
        assert "trying again in 60 s, 3 more at most" in body.stderr.readline()
        os.kill(body.pid, signal.SIGTERM)
        assert body.wait(timeout=30) == 75
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize(
    ("given", "days_back", "meant"),
    [("2022-05-05", 0, "2022-05-05"), ("2022-05-01", 1, "2022-04-30")],
)
def test_the_day_of_logs_is_the_date_given_or_days_before_it(given, days_back, meant):
    assert logical_day(given, days_back) == meant


@pytest.mark.parametrize("given", ["[[ScheduledTime.2006-01-02]]", "", "05.05.2022"])
def test_what_is_no_day_stops_the_task_as_a_wrong_setting(given, caplog):
    with pytest.raises(SystemExit) as left:
        logical_day(given, 0)
    assert left.value.code == 78
    assert repr(given) in caplog.text
    assert "2022-05-05" in caplog.text
