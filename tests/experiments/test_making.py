"""One run: what it tells while it is made, and that it is kept only for the splits it was on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from perscen.config import EvaluateConfig
from perscen.errors import ArtifactError
from perscen.experiments.making import PinnedSplits, make_run
from perscen.experiments.processes import make_runs
from perscen.experiments.rows import ROWS
from perscen.experiments.runs import Run, Work
from perscen.experiments.settings import changed, settings_of
from tests.experiments.small import pinned, write_splits

TINY = {"train.max_epochs": 2, "train.monitor_k": 5}
pytestmark = pytest.mark.medium  # each is quick, all together are not


def run_of(name: str) -> Run:
    row = changed(ROWS[name], recipe=None, changes=TINY)
    return Run(row, settings_of(row, evaluate=EvaluateConfig(ks=(5,))), 0)


@pytest.fixture
def splits(tmp_path) -> PinnedSplits:
    return pinned(write_splits(tmp_path / "splits", num_users=20, num_items=20))


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "work", splits_digest="d" * 64)


def replace(directory: Path) -> None:
    shutil.rmtree(directory)
    write_splits(directory, num_users=30, num_items=20)


def test_splits_that_were_replaced_are_refused_before_the_training(splits, work):
    told: list[str] = []
    replace(splits.directory)
    with pytest.raises(ArtifactError, match="was replaced while the comparison ran") as raised:
        make_run(run_of("dssm_m"), splits, work, tell=told.append)
    assert splits.manifest_digest[:12] in raised.value.message
    assert pinned(splits.directory).manifest_digest[:12] in raised.value.message
    assert raised.value.hint
    assert told == []


def test_a_run_whose_splits_were_replaced_under_way_is_not_kept(splits, work):
    run = run_of("random")
    with pytest.raises(ArtifactError, match="was replaced while the comparison ran"):
        make_run(run, splits, work, tell=lambda _: replace(splits.directory))
    assert work.facts(run) is None


def test_splits_that_are_gone_are_told_as_that(splits, work):
    shutil.rmtree(splits.directory)
    with pytest.raises(ArtifactError, match="has no manifest any more"):
        make_run(run_of("random"), splits, work)


@pytest.mark.parametrize(
    ("name", "says"), [("dssm_m", ["epoch 1", "epoch 2", "scoring"]), ("random", ["scoring"])]
)
def test_a_run_tells_what_it_does(name, says, splits, work):
    told: list[str] = []
    make_run(run_of(name), splits, work, tell=told.append)
    assert told == says


def test_what_runs_do_is_seen_from_the_process_that_waits_for_them(splits, work):
    seen: set[str] = set()
    list(
        make_runs(
            [run_of("dssm_m")],
            splits,
            work,
            jobs=1,
            watch=lambda underway: seen.update(one.doing for one in underway),
        )
    )
    assert {"starting", "scoring"} <= seen <= {"starting", "epoch 1", "epoch 2", "scoring"}
