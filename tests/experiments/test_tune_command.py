"""``perscen tune``: what it writes, what it refuses, and that it goes on."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from components.cli import program
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


@pytest.mark.medium
def test_two_searches_do_not_write_one_history(desk: Path):
    with FileLock(desk / ".lock-tune.db"):
        result = tune(desk)
    assert isinstance(result.exception, ServiceUnavailable)
    assert "another search is writing" in result.exception.message
    assert not (desk / "tune.db").exists()
