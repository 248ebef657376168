"""Training processes, stopped or killed at bad moments: the next one ends as if undisturbed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.fates import TEMPORARY, Fate, fate
from components.pipeline import PIPELINE
from components.store import open_artifact
from tests.training.test_train_step import DAY, train, workplace  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow

ALWAYS = {"checkpoint_every_s": 1e-6, "max_epochs": 3}


def in_the_first_epoch(send: Callable[[], None]) -> None:
    _after_step(send, epoch=1, step=2)


def in_the_middle_of_an_epoch(send: Callable[[], None]) -> None:
    _after_step(send, epoch=2, step=3)


def during_validation(send: Callable[[], None]) -> None:
    from perscen.training.validation import Validator

    _before(Validator, "__call__", lambda *_: send())


def between_epochs(send: Callable[[], None]) -> None:
    from components.adapters.tracking import Tracker

    _before(Tracker, "epoch_done", lambda _, record: send() if record.epoch == 2 else None)


def while_a_checkpoint_is_written(send: Callable[[], None]) -> None:
    def half(path: Path, target: Path) -> None:
        if path.name == "checkpoint.new" and target.exists():
            path.write_bytes(path.read_bytes()[:1000])
            send()

    _before(Path, "replace", half)


def once_the_model_is_written(send: Callable[[], None]) -> None:
    from components import runner

    _before(runner, "write_manifest", lambda *_: send())


def _after_step(send: Callable[[], None], *, epoch: int, step: int) -> None:
    from components.adapters.tracking import Tracker

    def told(tracker: Tracker, *, epoch: int, step: int, num_steps: int) -> None:
        if (epoch, step) == at:
            send()

    at = (epoch, step)
    _before(Tracker, "step_done", told)


def _before(owner: Any, name: str, action: Callable[..., None]) -> None:
    whole = getattr(owner, name)

    def both(*args: Any, **options: Any) -> Any:
        action(*args, **options)
        return whole(*args, **options)

    setattr(owner, name, both)


def step(argv: list[str], plant: Callable | None, number: int) -> None:
    """Run the program in this process, which sends itself a signal at the planted moment."""
    from components import cli

    # Opening MLflow's database takes longer than this training, and does not matter here.
    os.environ |= {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    if plant is not None:
        plant(lambda: os.kill(os.getpid(), number))
    cli.main(argv)


@pytest.fixture(scope="module")
def processes():
    """New processes that need not import everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["components.steps.train", "components.runner"])
    return context


@pytest.fixture
def attempt(processes, workplace, undisturbed, tmp_path):  # noqa: F811 (a fixture)
    """Make an attempt at the training in a process of its own; return its exit code."""
    settings, _ = undisturbed
    where = {name: str(workplace / name) for name in ("splits", "champion")}
    argv = PIPELINE["train"].argv(
        config=str(settings),
        logical_date=DAY.isoformat(),
        places={**where, "model": str(tmp_path / "model")},
    )[3:]

    def attempt(plant: Callable | None = None, number: int = 0) -> int:
        process = processes.Process(target=step, args=(argv, plant, number))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    return attempt


@pytest.fixture(scope="module")
def undisturbed(workplace) -> tuple[Path, str]:  # noqa: F811 (a fixture)
    """Settings, and the digest of what a training under them ends with."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{workplace}/mlflow.db")
        manifest = train(workplace, workplace / "model", **ALWAYS)
    return workplace / "model.yaml", manifest.digest


@pytest.mark.parametrize(
    "moment",
    [in_the_first_epoch, in_the_middle_of_an_epoch, during_validation, between_epochs],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_whenever_a_training_is_stopped_or_killed_the_next_attempt_ends_as_if_it_had_not_been(
    attempt, undisturbed, tmp_path, moment, number
):
    code = attempt(moment, number)
    assert code == (TEMPORARY if number == signal.SIGTERM else -signal.SIGKILL)
    assert fate(code) is Fate.RETRY
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "model.state/checkpoint.pt").exists()
    assert attempt() == 0
    assert open_artifact(tmp_path / "model", kind="model").manifest.digest == undisturbed[1]
    assert not (tmp_path / "model.state").exists()


@pytest.mark.parametrize("moment", [while_a_checkpoint_is_written, once_the_model_is_written])
def test_a_kill_at_a_moment_of_writing_costs_no_more_than_the_last_steps(
    attempt, undisturbed, tmp_path, moment
):
    assert attempt(moment, signal.SIGKILL) == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    assert attempt() == 0
    assert open_artifact(tmp_path / "model", kind="model").manifest.digest == undisturbed[1]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model", ".lock-model"}
