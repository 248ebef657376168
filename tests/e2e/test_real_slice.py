"""The real slice of KuaiRand-Pure through every step, by the commands of the documentation."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass

import pytest
import yaml

from components.pipeline import PIPELINE
from components.render import places
from tests.e2e.project import Project, checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_GIB = 2**30


@dataclass(frozen=True)
class Spent:
    """What a command took."""

    seconds: float
    peak_bytes: int
    code: int
    said: str


def measured(project: Project, *argv: str) -> Spent:
    """Run a command and return its time and the peak memory of its process tree's largest."""
    log = project.path / "last.log"
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            argv, cwd=project.path, env=project.environment(), stdout=file, stderr=file
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Spent(
        seconds=time.monotonic() - started,
        peak_bytes=usage.ru_maxrss * 1024,
        code=process.returncode,
        said=log.read_text(),
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return checkout(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def spent(project, kuairand_dir) -> dict[str, Spent]:
    """Every step's cost, the import of the official files first; half a training is enough here."""
    project.set(train={"max_epochs": 6})
    argv = ("perscen", "data", "kuairand-pure", "--from", str(kuairand_dir), "--to", "data/raw")
    costs = {"import": measured(project, *argv)}
    assert costs["import"].code == 0, costs["import"].said
    date = yaml.safe_load((project.path / "params.yaml").read_text())["run"]["logical_date"]
    for step in PIPELINE.steps:
        argv = step.argv(config="params.yaml", logical_date=date, places=places())
        costs[step.name] = measured(project, *argv)
        assert costs[step.name].code == 0, f"{step.name}: {costs[step.name].said}"
    return costs


def test_it_ends_in_a_release_that_answers(project, spent):
    assert project.json("verdict/verdict.json")["decision"] == "promote"
    assert project.aliases() == {"champion": 1}
    assert "Released: perscen version 1" in project.run("perscen", "summary").stdout


def test_no_step_needs_three_gigabytes(spent):
    table = "\n".join(
        f"{name:10} {cost.seconds:7.1f} s {cost.peak_bytes / _GIB:6.2f} GiB"
        for name, cost in spent.items()
    )
    print(table)  # noqa: T201 (shown by `pytest -s`: what the slice costs, step by step)
    assert max(cost.peak_bytes for cost in spent.values()) < 3 * _GIB, table
