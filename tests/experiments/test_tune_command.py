"""``perscen tune``: what it writes, what it refuses, and that it goes on."""

from __future__ import annotations

import csv
import errno
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from components.cli import program
from components.store import open_artifact, write_manifest
from perscen.config import read_config
from perscen.errors import ConfigError, Preempted, ServiceUnavailable
from tests.experiments.small import write_splits

SPACE = "every: {model.dropout: {low: 0.0, high: 0.5, step: 0.1}}"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    write_splits(tmp_path / "splits", num_items=110)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def tune(desk: Path, *options: str) -> Result:
    place = [str(desk / "splits"), "--study", str(desk / "tune.db")]
    few = ["--family", "dssm", "--finalists", "1", "--seeds", "1"]
    space = ["--space", str(desk / "space.yaml")]
    return CliRunner().invoke(program, ["tune", *place, *few, *space, *options])


@pytest.mark.medium
def test_a_search_ends_in_settings_to_run_with_and_goes_on_when_asked_again(desk: Path):
    result = tune(desk, "--minutes", "0.02")
    while isinstance(result.exception, Preempted):  # a busy machine
        result = tune(desk, "--minutes", "0.02")
    assert result.exit_code == 0, result.exception
    assert "Macro Recall@100 on the validation window" in result.output
    params = desk / "tune.params.yaml"
    config = read_config(params)
    assert config.model.family == "dssm"
    assert config.split.test == (date(2022, 5, 5), date(2022, 5, 5))
    assert str(params) in result.output
    before = list(csv.DictReader((desk / "tune.csv").read_text().splitlines()))
    assert before[0]["model.dropout"] == "0.2"
    assert before[0]["outcome"] == "finished"
    recalls = [float(before[0][f"recall/{name}"]) for name in ("s0", "s1")]
    assert float(before[0]["macro_recall"]) == pytest.approx(sum(recalls) / 2, abs=1e-6)
    for _ in range(50):
        assert tune(desk, "--minutes", "0.02").exit_code == 0
        after = list(csv.DictReader((desk / "tune.csv").read_text().splitlines()))
        if len(after) > len(before):
            break
    assert after[: len(before)] == before
    refused = tune(desk, "--recipe", "paper")
    assert isinstance(refused.exception, ConfigError)
    assert "tune.db is a search with other recipe" in refused.exception.message


def record(desk: Path, split: dict[str, Any]) -> None:
    """Have the splits say that they were made with these settings."""
    manifest = open_artifact(desk / "splits", kind="splits").manifest
    write_manifest(desk / "splits", manifest.model_copy(update={"settings": {"split": split}}))


@pytest.mark.medium
def test_settings_to_run_with_hold_windows_longer_than_the_default(desk: Path):
    record(desk, {"train_days": 14, "valid_days": 1, "test_days": 1})
    result = tune(desk, "--minutes", "0.02")
    while isinstance(result.exception, Preempted):  # a busy machine
        result = tune(desk, "--minutes", "0.02")
    assert result.exit_code == 0, result.exception
    config = read_config(desk / "tune.params.yaml")
    assert (config.split.train_days, config.data.window_days) == (14, 16)


def test_splits_whose_settings_are_not_known_are_refused_before_the_search(desk: Path):
    record(desk, {"train_days": 1, "valid_days": 1, "test_days": 1, "gone": True})
    result = tune(desk, "--minutes", "0.02")
    assert isinstance(result.exception, ConfigError)
    assert "split.gone is not a setting" in result.exception.message
    assert not (desk / "tune.db").exists()


@pytest.mark.medium
def test_two_searches_do_not_write_one_history(desk: Path):
    with FileLock(desk / ".lock-tune.db"):
        result = tune(desk)
    assert isinstance(result.exception, ServiceUnavailable)
    assert f"another attempt is still making {desk / 'tune.db'}" in result.exception.message
    assert "--study another file" in result.exception.hint
    assert not (desk / "tune.db").exists()


def test_a_study_where_nothing_can_be_written_is_told_as_that(desk: Path, monkeypatch):
    def mkdir(self: Path, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    result = tune(desk)
    assert isinstance(result.exception, ConfigError)
    assert "tune.db cannot be written: Read-only file system" in result.exception.message
