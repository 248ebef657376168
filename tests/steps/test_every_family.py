"""Every model family goes the whole way: trained, indexed, judged, published, asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.pipeline import PIPELINE
from components.retrieve_command import retrieve
from perscen.manifests import ModelManifest, ReleaseManifest
from perscen.models.families import MODELS
from perscen.recipes import recipe_named
from tests.steps.mini import MiniRun

pytestmark = [
    pytest.mark.medium,
    # MLflow's own queries; nothing here can change them.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
READY = ("raw_log", "clean_log", "splits", "champion")
STEPS = [step for step in PIPELINE.steps if step.output not in READY]


@pytest.mark.parametrize("family", sorted({*MODELS} - {"perscen"}))
def test_a_family_is_released_and_answers(finished: MiniRun, family: str, tmp_path: Path) -> None:
    run = MiniRun(tmp_path)
    for name in READY:
        shutil.copytree(finished.root / name, run.root / name)
    recipe = recipe_named("paper", family=family)
    run.write_params(
        model=recipe.model.model_dump(mode="json"),
        train={"loss": recipe.train.loss, "max_epochs": 1},
        gate={"absolute_margin": 0.9},
        publish={"name": family},
    )
    made = {step.output: run.run(step.name) for step in STEPS}
    model, release = made["model"], made["release"]
    assert isinstance(model, ModelManifest)
    assert model.family == family
    assert isinstance(release, ReleaseManifest)
    assert f"({family}) has no" in (run.root / "report/index.html").read_text()
    address = f"models:/{family}@champion"
    argv = ["--bundle", address, "--user", "nobody", "--scenario", "1", "--k", "5", "--json"]
    answer = json.loads(CliRunner().invoke(retrieve, argv, catch_exceptions=False).output)
    assert len(answer["items"]) == 5
