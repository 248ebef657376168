"""At every door: an artifact that was changed, mixed up or left unfinished goes no further."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from components.exit_codes import exit_code
from components.pipeline import PIPELINE
from components.runner import run_step
from components.store import MANIFEST_NAME, staged, write_manifest
from perscen.errors import ArtifactError
from perscen.manifests import (
    ChampionManifest,
    CleanLogManifest,
    IndexesManifest,
    ModelManifest,
    ReportManifest,
    ScoresManifest,
    SplitsManifest,
    VerdictManifest,
    Window,
)
from tests.faults import flip_a_byte

DAY = date(2022, 5, 5)
WINDOW = Window(first=DAY, last=DAY)
PARAMS = """
run: {logical_date: 2022-05-05}
split: {train_days: 7, valid_days: 2, test_days: 2}
model: {family: perscen}
"""
OTHER_FIELDS: dict[type, dict[str, Any]] = {
    CleanLogManifest: {
        "source": "synthetic",
        **dict.fromkeys(("rows_in", "rows_good", "rows_quarantined", "rows_dropped"), 0),
        "rule_counts": {},
        "days": [],
        "excluded_days": {},
        "utc_offset_hours": 8,
    },
    SplitsManifest: {
        "scenarios": [],
        "train": WINDOW,
        "valid": WINDOW,
        "test": WINDOW,
        "num_items": 0,
        "num_users": 0,
        "rows": {},
    },
    ChampionManifest: {"name": "p", "version": None, "bundle_id": None, "champion_date": None},
    ModelManifest: {
        "family": "perscen",
        "recipe_digest": "",
        "fingerprint": "f",
        "num_parameters": 0,
        "best_epoch": 1,
        "epochs": 1,
        "valid_recall": {},
        "code_usage": {},
    },
    IndexesManifest: {"model_digest": "m", "fingerprint": "f", "dim": 1, "indexes": {}},
    ScoresManifest: {
        "model_digest": "m",
        "indexes_digest": "i",
        "champion_bundle_id": None,
        "ks": [50],
        "num_users": {},
    },
    VerdictManifest: {"model_digest": "m", "indexes_digest": "i", "decision": "promote"},
    ReportManifest: {},
}
DOORS = [(step.name, name) for step in PIPELINE.steps for name in step.inputs if name != "raw_log"]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    """One small artifact of every kind, sealed; no step could work on it, but every door opens."""
    root = tmp_path_factory.mktemp("sealed")
    for kind, fields in OTHER_FIELDS.items():
        manifest = kind(
            **fields, step="s", logical_date=DAY, code_version="c", config_digest="d", parents={}
        )
        with staged(root / manifest.kind) as scratch:
            (scratch / "payload.bin").write_bytes(bytes(range(256)))
            write_manifest(scratch, manifest)
    (root / "params.yaml").write_text(PARAMS)
    return root


@pytest.fixture
def places(sealed, tmp_path) -> dict[str, Path]:
    """The artifacts, copied for one test."""
    root = shutil.copytree(sealed, tmp_path / "run")
    return {kind: root / kind for kind in {name for _, name in DOORS}}


def pass_through(step: str, places: dict[str, Path]) -> ArtifactError:
    """Run a step; return the error it was refused with."""
    root = next(iter(places.values())).parent
    output = root / "output"
    output.mkdir()
    (output / "before").touch()
    with pytest.raises(ArtifactError) as caught:
        run_step(
            step,
            config=root / "params.yaml",
            logical_date=DAY,
            inputs={name: places[name] for name in PIPELINE[step].inputs},
            output=output,
        )
    assert exit_code(caught.value) == 66
    assert caught.value.hint
    assert [path.name for path in output.iterdir()] == ["before"]
    assert not list(root.glob(".staged-*"))
    return caught.value


@pytest.mark.parametrize(("step", "name"), DOORS)
@pytest.mark.parametrize("file", ["payload.bin", MANIFEST_NAME])
def test_one_changed_byte_is_refused(places, step, name, file):
    # In the manifest: within the value of "code_version", where it stays a manifest.
    path = places[name] / file
    if file == MANIFEST_NAME:
        path.write_text(path.read_text().replace('"code_version": "c"', '"code_version": "b"'))
    else:
        flip_a_byte(path)
    error = pass_through(step, places)
    assert f"{places[name]} has changed since it was made: its digest is" in error.message


@pytest.mark.parametrize(("step", "name"), DOORS)
def test_an_unfinished_artifact_does_not_exist(places, step, name):
    (places[name] / MANIFEST_NAME).unlink()
    error = pass_through(step, places)
    assert f"no finished {name} in {places[name]}: manifest.json is missing" in error.message


@pytest.mark.parametrize(("step", "name"), DOORS)
def test_an_artifact_of_another_kind_is_refused(places, step, name):
    other = "report" if name == "verdict" else "verdict"
    error = pass_through(step, places | {name: places["verdict"].parent / other})
    assert f"holds a {other}, expected a {name}" in error.message


def test_a_raw_log_that_is_none_is_refused(places):
    error = pass_through("validate", places | {"raw_log": places["model"]})
    assert "no finished raw log" in error.message
    assert "perscen data" in error.hint
