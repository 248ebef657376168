"""What a step cannot work with: a clear error, the output of before, and the input untouched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from components.pipeline import PIPELINE
from perscen.errors import ArtifactError, ConfigError, PerscenError, StorageFull
from tests.data.archives import contents
from tests.faults import flip_a_byte, full_disk
from tests.steps.mini import NUM_ITEMS, MiniRun

pytestmark = [
    pytest.mark.medium,
    # MLflow's own queries; nothing here can change them.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
STEPS = [step.name for step in PIPELINE.steps]


@pytest.fixture
def again(finished: MiniRun) -> Iterator[str]:
    """A folder for outputs of one test, removed afterwards."""
    yield "again"
    for left in finished.root.glob("again*"):
        shutil.rmtree(left)


def refused(
    run: MiniRun,
    step: str,
    error: type[PerscenError],
    says: str,
    *,
    fault: AbstractContextManager[None] | None = None,
    **changes: dict[str, Any],
) -> None:
    """Run a step onto a copy of its artifact; check its error and that everything else stays."""
    shutil.copytree(run.root / PIPELINE[step].output, run.root / "again")
    kept = {name: contents(run.root / name) for name in ("again", *PIPELINE[step].inputs)}
    run.write_params(**changes)
    try:
        with fault or nullcontext(), pytest.raises(error, match=says) as caught:
            run.run(step, out="again")
    finally:
        run.write_params()
    assert caught.value.hint
    assert {name: contents(run.root / name) for name in kept} == kept
    assert not list(run.root.glob(".staged-*"))


@pytest.mark.parametrize(
    ("step", "changes", "says"),
    [
        (
            "train",
            {"train": {"monitor_k": NUM_ITEMS + 1}},
            f"train.monitor_k is {NUM_ITEMS + 1}, but the catalogue has {NUM_ITEMS} items",
        ),
        (
            "index",
            {"index": {"flat_below": 0, "recall_k": NUM_ITEMS + 1}},
            f"index.recall_k is {NUM_ITEMS + 1}, but the catalogue has {NUM_ITEMS} items",
        ),
        (
            "evaluate",
            {"evaluate": {"ks": [10, NUM_ITEMS + 1]}},
            f"evaluate.ks asks for {NUM_ITEMS + 1} items, but .* has {NUM_ITEMS}",
        ),
        ("gate", {"gate": {"k": 50}}, "gate.k is 50, but evaluate measured recall at 10, 20"),
        ("split", {"split": {"num_scenarios": 9}}, "split.num_scenarios is 9, but only 4"),
        ("validate", {"data": {"window_days": 10}}, "split needs 11 days .* keeps 10"),
        ("train", {"train": {"device": "tpu"}}, r"train.device: .* \(got 'tpu'\)"),
        ("publish", {"publish": {"name": "a/b"}}, "'a/b' cannot name a registered model"),
    ],
    ids=["monitor_k", "recall_k", "ks", "k", "num_scenarios", "window_days", "device", "name"],
)
def test_a_setting_that_does_not_fit_the_data_is_refused_with_both_numbers(
    finished, again, step, changes, says
):
    refused(finished, step, ConfigError, says, **changes)


def test_a_folder_that_is_gone_is_named(finished, again):
    (finished.root / "clean_log").rename(finished.root / "elsewhere")
    try:
        with pytest.raises(ArtifactError, match=r"no finished clean_log in .*/clean_log"):
            finished.run("split", out=again)
    finally:
        (finished.root / "elsewhere").rename(finished.root / "clean_log")
    assert not (finished.root / again).exists()


def test_a_changed_byte_of_the_raw_log_stops_validation(finished, again):
    path = next(iter((finished.root / "raw_log").glob("date=2022-05-05/*.parquet")))
    whole = path.read_bytes()
    flip_a_byte(path)
    try:
        refused(finished, "validate", ArtifactError, f"{path} is truncated or changed: its sha256")
    finally:
        path.write_bytes(whole)


FULL = [(step, share) for step in STEPS for share in (0.9, 0.05)]
# Reading the registry takes a file that large: what publish itself writes comes after it.
FULL.remove(("publish", 0.05))


@pytest.mark.parametrize(("step", "share"), FULL)
def test_a_full_disk_leaves_what_was_there(finished, again, step, share):
    # What publish writes is mostly a copy of the model, on its way to the registry.
    written = finished.root / ("model" if step == "publish" else PIPELINE[step].output)
    largest = max(path.stat().st_size for path in written.rglob("*") if path.is_file())
    fault = full_disk(at_bytes=int(share * largest))
    says = f"while writing {finished.root / again} .* MiB are free there"
    refused(finished, step, StorageFull, says, fault=fault)
