"""Every model family goes the whole way: trained, indexed, judged, published, asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from perscen.models.families import MODELS
from tests.e2e.project import Project, checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OTHERS = sorted({*MODELS} - {"perscen"})
HASTY = {
    "train": {"max_epochs": 1, "monitor_k": 20},
    # One epoch proves nothing: here the gate is to be passed, not to be tested.
    "gate": {"code_usage_floor": 0.0, "relative_margin": 0.99, "absolute_margin": 0.9},
}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout in which a small log is split."""
    project = checkout(tmp_path_factory.mktemp("split"))
    project.make_small_log()
    project.set(**HASTY)
    project.run("dvc", "repro", "split")
    return project


@pytest.mark.parametrize("family", OTHERS)
def test_a_family_is_released_and_answers(split: Project, family: str, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(split.path, project.path, symlinks=True)
    written = project.run("perscen", "params", "--family", family).stdout
    (project.path / "params.yaml").write_text(written)
    project.set(**HASTY)
    project.run("dvc", "repro")
    assert project.json("model/manifest.json")["family"] == family
    assert project.json("release/manifest.json")["kind"] == "release"
    assert f"({family}) has no" in (project.path / "artifacts/report/index.html").read_text()
    argv = ("perscen", "retrieve", "--user", "nobody", "--scenario", "1", "--k", "5", "--json")
    answer = json.loads(project.run(*argv).stdout)
    assert len(answer["items"]) == 5
