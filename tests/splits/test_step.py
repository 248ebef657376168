"""The step as the runner runs it: artifact in, artifact out, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from components.runner import run_step
from components.store import write_manifest
from perscen.data.splits import Splits
from perscen.errors import ArtifactError, ConfigError
from perscen.manifests import CleanLogManifest, Window
from tests.splits.clean_logs import at, click, day, some_rows, write_clean_log

LOGICAL = day(5)
WINDOWS = {"train_days": 4, "valid_days": 1, "test_days": 1, "num_scenarios": 2}


def run(tmp_path: Path, clean_log: Path, *, logical=LOGICAL, out: str = "splits", **split):
    config = tmp_path / "params.yaml"
    tree = {
        "run": {"logical_date": logical},
        "split": {**WINDOWS, **split},
        "model": {"family": "perscen"},
    }
    config.write_text(yaml.safe_dump(tree))
    return run_step(
        "split",
        config=config,
        logical_date=logical,
        inputs={"clean_log": clean_log},
        output=tmp_path / out,
    )


@pytest.fixture
def clean_log(tmp_path):
    return write_clean_log(tmp_path / "clean", some_rows())


def test_the_manifest_says_what_the_splits_hold(tmp_path, clean_log):
    manifest = run(tmp_path, clean_log)
    splits = Splits.open(tmp_path / "splits")

    assert manifest.scenarios == ["main", "side"]
    assert (manifest.num_users, manifest.num_items) == (5, 6)
    assert manifest.test == Window(first=day(5), last=day(5))
    assert manifest.rows == {
        "train": {"main": 30, "side": 12},
        "valid": {"main": 5, "side": 3},
        "test": {"main": 10, "side": 3},
    }
    assert len(splits.train.user) == 42


def test_the_same_log_gives_the_same_digest(tmp_path, clean_log):
    assert run(tmp_path, clean_log).digest == run(tmp_path, clean_log, out="again").digest


def test_the_truth_of_a_synthetic_log_is_passed_on(tmp_path):
    truth = tmp_path / "clean" / "truth"
    truth.mkdir(parents=True)
    (truth / "defects.parquet").write_bytes(b"as it is")
    run(tmp_path, write_clean_log(tmp_path / "clean", some_rows()))
    assert (tmp_path / "splits" / "truth" / "defects.parquet").read_bytes() == b"as it is"


def test_a_later_partition_of_a_longer_log_is_not_read(tmp_path, clean_log):
    late = click("u1", "v0", "main", at(5, 1), date=str(day(7)))
    longer = write_clean_log(tmp_path / "longer", [*some_rows(), late])
    assert run(tmp_path, longer).rows == run(tmp_path, clean_log, out="b").rows


def test_an_excluded_training_day_is_named_and_passed_over(tmp_path, caplog):
    rows = [row for row in some_rows() if not is_on(row, 2)]
    clean_log = write_clean_log(tmp_path / "clean", rows, excluded={day(2): "60% without an id"})
    run(tmp_path, clean_log)
    (record,) = [r for r in caplog.records if r.message == "a window lacks days"]
    assert record.window == "train"
    assert record.days == {"2026-02-28": "no rows", "2026-03-03": "60% without an id"}


def test_a_bad_day_does_not_leave_the_next_run_without_a_validation_window(tmp_path):
    rows = [row for row in some_rows() if not is_on(row, 4)]
    clean_log = write_clean_log(tmp_path / "clean", rows, excluded={day(4): "60% without an id"})
    manifest = run(tmp_path, clean_log, train_days=3)
    assert manifest.valid == Window(first=day(3), last=day(3))
    assert manifest.train == Window(first=day(0), last=day(2))


def is_on(row: dict, n: int) -> bool:
    return at(n, 0) <= row["event_time_ms"] < at(n + 1, 0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"logical": day(40)}, ConfigError, "2026-04-10 is outside the clean log, which has 2026"),
        ({"num_scenarios": 9}, ConfigError, "split.num_scenarios is 9"),
        (
            {"train_days": 3, "valid_days": 3, "logical": day(3)},
            ArtifactError,
            "train window, 2026",
        ),
    ],
)
def test_a_refused_split_leaves_nothing_behind(tmp_path, clean_log, settings, error, message):
    before = sorted(clean_log.rglob("*"))
    with pytest.raises(error, match=message):
        run(tmp_path, clean_log, **settings)
    assert not (tmp_path / "splits").exists()
    assert sorted(clean_log.rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda log: (log / "fields.json").write_text("[]"), "fields.json is no field plan"),
        (lambda log: (log / "users" / "part-0.parquet").unlink(), "users holds no part"),
        (
            lambda log: next(log.glob("interactions/*/part-0.parquet")).write_bytes(b"PAR1"),
            "part-0.parquet cannot be read",
        ),
    ],
)
def test_a_clean_log_made_wrongly_is_refused_by_name(tmp_path, clean_log, damage, message):
    damage(clean_log)
    manifest = json.loads((clean_log / "manifest.json").read_text())
    write_manifest(clean_log, CleanLogManifest.model_validate({**manifest, "digest": ""}))
    with pytest.raises(ArtifactError, match=message) as caught:
        run(tmp_path, clean_log)
    assert caught.value.hint
