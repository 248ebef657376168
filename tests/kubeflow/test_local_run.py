"""The compiled pipeline, run by Kubeflow's local runner with steps that only obey.

What the real steps do in it, and that they do the same elsewhere: ``tests/parity``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from components.pipeline import PIPELINE
from dags._deployment import Deployment, Gpu, Pods
from tests.conftest import ROOT
from tests.kubeflow.local import Ran, run

pytestmark = pytest.mark.medium

STEP = """\
import json, os, sys
from pathlib import Path

step = sys.argv[1]
plan = json.loads(Path("plan.json").read_text())
code = plan[step].pop(0) if plan.get(step) else 0
Path("plan.json").write_text(json.dumps(plan))
with open("runs", "a") as file:
    file.write(" ".join(sys.argv[1:]) + chr(10))
options = sys.argv[2:]
inputs = [options[i + 2] for i, token in enumerate(options) if token == "--in"]
missing = [place for place in inputs if not Path(place).exists()]
if code == 0:
    name, place = options[-2:]
    Path(place).mkdir(parents=True)
    Path(place, "index.html").write_text(step)
    result = {"step": step, "artifact": name, "digest": "d" * 64, "missing": missing}
    notes = {"report": {"page": "index.html"}, "publish": {"released": True, "version": "7"}}
    result |= notes.get(step, {"champion": None})
    Path(os.environ["PERSCEN_RESULT"]).write_text(json.dumps(result))
sys.exit(code)
"""
"""Stands for every step: ends as planned, and makes a directory."""


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """The compiled pipeline of a deployment that does not wait long between attempts."""
    from kfp import compiler

    from dags.perscen_kubeflow import pipeline

    out = tmp_path_factory.mktemp("compiled") / "perscen.yaml"
    deployment = Deployment(retries=1, retry_delay_s=1, pods=Pods(gpu=Gpu(count=0)))
    compiler.Compiler().compile(pipeline(deployment), str(out))
    return out.read_text()


def ran(text: str, here: Path, plan: Mapping[str, list[int]]) -> Ran:
    (here / "perscen.yaml").write_text(text)
    (here / "plan.json").write_text(json.dumps(plan))
    (here / "raw").mkdir()
    stand_in = here / "components"
    stand_in.mkdir()
    (stand_in / "__init__.py").touch()
    (stand_in / "__main__.py").write_text(STEP)
    shutil.copy(ROOT / "components/fates.py", stand_in)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    arguments = {"logical_date": "2022-05-06", "days_back": 1, "raw_log": "raw"}
    return run(here, arguments, cwd=here, environment={**os.environ, "PATH": path})


def test_a_refused_day_is_done_and_says_that_nothing_was_released(text, tmp_path):
    day = ran(text, tmp_path, {"validate": [75], "publish": [10]})
    assert day.code == 0, day.said
    assert day.outputs == {"released": False}
    assert day.metadata("publish", "release") == {"released": False}
    assert not (day.tasks / "publish/release").exists()
    lines = (tmp_path / "runs").read_text().splitlines()
    assert [line.split()[0] for line in lines].count("validate") == 2  # it passed at the second try
    assert len(lines) == len(PIPELINE.steps) + 1
    assert all("--config params.yaml --logical-date 2022-05-05" in line for line in lines)


def test_a_released_day_tells_kubeflow_what_each_artifact_is(text, tmp_path):
    day = ran(text, tmp_path, {})
    assert day.code == 0, day.said
    assert day.outputs == {"released": True}
    for step in PIPELINE.steps:
        told = day.metadata(step.name, step.output)
        assert (told["step"], told["artifact"], told["digest"]) == (
            step.name,
            step.output,
            "d" * 64,
        )
        assert told["missing"] == []
        assert "champion" not in told  # nulls stay behind
    assert day.metadata("publish", "release")["version"] == "7"
    assert (day.tasks / "report/page").read_text() == "report"


def test_a_step_that_fails_ends_the_run_and_nothing_after_it_starts(text, tmp_path):
    day = ran(text, tmp_path, {"validate": [65]})
    assert day.code != 0
    assert "validate" in day.said.splitlines()[-1]
    started = [line.split()[0] for line in (tmp_path / "runs").read_text().splitlines()]
    assert started.count("validate") == 1
    assert set(started) <= {"validate", "champion"}
    assert day.outputs == {}
