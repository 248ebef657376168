"""A training shared by several processes ends as that of one, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from components.fates import Fate, fate
from components.pipeline import PIPELINE
from components.render import places, under_torchrun
from components.surroundings import Surroundings
from components.torchrun import most_telling
from tests.conftest import ROOT
from tests.training import shared
from tests.training.towers import checkpoint

RANKS = 2
CASES = [name for name in shared.CASES if name != "diverging"]


@cache
def alone(case: str) -> dict[str, Any]:
    """What one process ends with."""
    result: dict[str, Any] = shared.plain(shared.run_case(case))
    return result


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two processes ends with, in every case."""
    folder = tmp_path_factory.mktemp("together")
    torch.multiprocessing.spawn(shared.in_worker, (RANKS, folder), nprocs=RANKS)
    return [torch.load(folder / f"{RANKS}-{n}.pt", weights_only=True) for n in range(RANKS)]


def assert_alike(left: dict[str, Any], right: dict[str, Any]) -> None:
    one, other = left["trained"], right["trained"]
    assert one["pretraining"] == pytest.approx(other["pretraining"], rel=0, abs=1e-5)
    assert len(one["epochs"]) == len(other["epochs"])
    for epoch, same in zip(one["epochs"], other["epochs"], strict=True):
        for name in ("loss", "task_loss", "auxiliary_loss"):
            assert epoch[name] == pytest.approx(same[name], rel=0, abs=1e-5), name
        assert epoch["recall"] == same["recall"]
        assert epoch["code_perplexity"] == same["code_perplexity"]
    assert one["best"]["epoch"] == other["best"]["epoch"]
    assert one["code_counts"] == other["code_counts"]
    for name, weight in left["weights"].items():
        torch.testing.assert_close(weight, right["weights"][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.medium
@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_as_one_and_with_the_same_bits(together, case):
    first, second = (results[case] for results in together)
    assert first["ranks"] == RANKS
    assert alone(case)["ranks"] == 1
    assert_alike(first, alone(case))
    assert first["trained"] == second["trained"]
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name


@pytest.mark.medium
@pytest.mark.parametrize("case", CASES[:2])
def test_what_is_compared_stops_early_after_a_best_epoch_that_is_not_the_first(case):
    trained = alone(case)["trained"]
    best, done = trained["best"]["epoch"], len(trained["epochs"])
    assert 1 < best == done - 3 < done < shared.CASES[case][1]["max_epochs"]


@pytest.fixture
def launch(tmp_path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a module under the launcher; whatever is left of it ends with the test."""
    started = []

    def start(*argv: str, options: tuple[str, ...] = (), **variables: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "components.torchrun", *options, "-m", *argv],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate()


STANDALONE = ("--standalone", "--nproc-per-node", str(RANKS))


def at(folder: Path, rank: int, *, epoch: int) -> dict[str, int]:
    """Wait until a rank has come to an epoch, and return what it says of itself."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / f"at-{rank}").exists():
            said: dict[str, int] = json.loads((folder / f"at-{rank}").read_text())
            if said["epoch"] >= epoch:
                return said
        time.sleep(0.02)
    raise AssertionError(f"rank {rank} did not come to epoch {epoch}")


@pytest.mark.medium
def test_one_of_two_machines_told_to_stop_stops_both_at_one_step_and_one_process_goes_on(
    launch, tmp_path
):
    case = CASES[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # As Kubeflow Trainer tells its pods, with one process on each.
    pet = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_PORT": port}
    machines = [
        launch(
            "tests.training.shared",
            case,
            str(tmp_path),
            **pet,
            PET_MASTER_ADDR="127.0.0.1",
            PET_NODE_RANK=number,
        )
        for number in "01"
    ]
    at(tmp_path, 1, epoch=2)
    machines[1].send_signal(signal.SIGTERM)
    assert [machine.wait(timeout=60) for machine in machines] == [75, 75]
    first, second = (json.loads((tmp_path / f"said-{n}").read_text()) for n in range(2))
    assert (first["told"], second["told"]) == (False, True)
    assert first["message"] == second["message"]
    assert "a checkpoint was written" in first["message"]
    assert not (tmp_path / "state-1").exists(), "rank 0 alone keeps a checkpoint"
    resumed = shared.run_case(case, checkpoint=checkpoint(tmp_path / "state-0"))
    assert_alike(shared.plain(resumed), alone(case))


@pytest.mark.medium
def test_who_loses_another_process_ends_at_once_and_may_be_tried_again(launch, tmp_path):
    launcher = launch("tests.training.shared", CASES[1], str(tmp_path), options=STANDALONE)
    os.kill(at(tmp_path, 1, epoch=1)["process"], signal.SIGKILL)
    assert fate(launcher.wait(timeout=60)) is Fate.RETRY
    assert json.loads((tmp_path / "said-0").read_text())["error"] == "ServiceUnavailable"


@pytest.mark.medium
def test_a_loss_that_is_not_finite_ends_every_process_and_the_launcher_with_70(launch, tmp_path):
    launcher = launch("tests.training.shared", "diverging", str(tmp_path), options=STANDALONE)
    assert launcher.wait(timeout=120) == 70
    said = [json.loads((tmp_path / f"said-{n}").read_text()) for n in range(RANKS)]
    assert [each["error"] for each in said] == ["TrainingDiverged"] * RANKS
    assert said[0]["message"] == said[1]["message"]


@pytest.mark.medium
def test_a_wrong_setting_ends_the_launcher_with_78(launch, tmp_path):
    (tmp_path / "params.yaml").write_text("train: {max_epoch: 3}\n")
    argv = PIPELINE["train"].argv(
        config="params.yaml", logical_date="2022-05-05", places=places(root="runs")
    )
    launcher = launch(*argv[2:], options=STANDALONE)
    assert launcher.wait(timeout=120) == 78


def test_a_process_shares_its_work_when_torchrun_started_it_and_not_by_a_rank_of_others():
    numbers = {"RANK": "1", "WORLD_SIZE": "4"}
    alone, among = Surroundings.of(numbers), Surroundings.of(numbers | {"TORCHELASTIC_RUN_ID": "r"})
    assert (alone.rank, alone.processes) == (0, 1)
    assert (among.rank, among.processes) == (1, 4)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([78, -15], 78),
        ([75, 78], 78),
        ([1, 78], 78),
        ([75, 1], 1),
        ([75, -15], 75),
        ([-15, 75], 75),
        ([75, 143], 75),
        ([-9, 75], 75),
        ([-9, -15], 137),
        ([-11, 75], 139),
        ([74, 70], 74),
    ],
)
def test_what_a_process_failed_by_itself_is_told_before_what_it_did_to_the_others(codes, said):
    assert most_telling(codes) == said


def test_a_steps_argv_is_shared_by_as_many_processes_as_asked_for_and_by_one_not_at_all():
    argv = PIPELINE["train"].argv(config="c", logical_date="d", places=places())
    assert under_torchrun(argv, processes=1) == argv
    assert under_torchrun(argv, processes=8) == [
        *("python", "-m", "components.torchrun", "--standalone", "--nproc-per-node", "8"),
        *argv[1:],
    ]
