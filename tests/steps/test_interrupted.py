"""Ctrl-C and SIGTERM in every step, sent to its real process: nothing half-made stays."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from components.fates import TEMPORARY, Fate, fate
from components.pipeline import PIPELINE
from components.store import open_artifact
from tests.conftest import ROOT
from tests.data.archives import contents
from tests.steps.mini import MiniRun

pytestmark = [
    pytest.mark.slow,
    # MLflow's own queries; nothing here can change them.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
STEPS = [step.name for step in PIPELINE.steps]


def start(run: MiniRun, step: str) -> subprocess.Popen[str]:
    """Start a step, and return when it has begun to work."""
    process = subprocess.Popen(
        [sys.executable, *run.argv(step, out="again")[1:]],
        cwd=run.root,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(run.root / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(run.root.glob(".staged-again-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    return process


def shell_code(process: subprocess.Popen[str]) -> int:
    """The exit code a shell shows: Python may end by the signal itself, which is 128 + SIGINT."""
    code = process.returncode
    return code if code >= 0 else 128 - code


@pytest.fixture(autouse=True)
def _tidy(finished: MiniRun) -> Iterator[None]:
    yield
    for left in (*finished.root.glob("again*"), *finished.root.glob(".staged-*")):
        shutil.rmtree(left)


@pytest.mark.parametrize("moment", ["at once", "later"])
@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_leaves_nothing_and_the_next_attempt_makes_the_same_artifact(finished, step, moment):
    kind = PIPELINE[step].output
    made = open_artifact(finished.root / kind, kind=kind).manifest
    raw = contents(finished.root / "raw_log")
    process = start(finished, step)
    if moment == "later":
        time.sleep(random.Random(step).uniform(0.0, 0.3))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert not list(finished.root.glob(".staged-*"))
    if moment == "at once" or shell_code(process) != 0:
        assert shell_code(process) == 130
        assert "Traceback" not in said
        if (finished.root / "again").exists():  # it came when all was in place, and whole
            assert moment == "later"
            assert open_artifact(finished.root / "again", kind=kind).manifest.digest == made.digest
    assert finished.run(step, out="again").digest == made.digest
    assert contents(finished.root / "raw_log") == raw


@pytest.mark.parametrize("step", STEPS)
def test_sigterm_leaves_nothing_half_made_and_is_tried_again(finished, step):
    process = start(finished, step)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    # A training that has begun leaves a checkpoint; any other work begins anew.
    preempted = step == "train" and process.returncode == TEMPORARY
    assert preempted or process.returncode == -signal.SIGTERM
    assert fate(process.returncode) is Fate.RETRY
    assert not list(finished.root.glob(".staged-*"))
    left = {path.name for path in finished.root.glob("again*")}
    assert left == ({"again.state"} if preempted else set())


@pytest.mark.parametrize("step", ["split", "train"])
def test_a_killed_step_leaves_no_artifact_and_the_next_attempt_clears_up(finished, step):
    process = start(finished, step)
    process.kill()
    process.communicate()
    assert not (finished.root / "again").exists()
    (scratch,) = finished.root.glob(".staged-*")
    finished.run(step, out="again")
    assert not scratch.exists()


def test_what_was_there_outlives_an_interrupted_rerun(finished):
    shutil.copytree(finished.root / "splits", finished.root / "again")
    before = contents(finished.root / "again")
    process = start(finished, "split")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert shell_code(process) == 130
    assert contents(finished.root / "again") == before
