"""The ``train`` step: the two towers, with what is known of how they were trained."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.adapters.tracking import tracking
from components.progress import epoch_bars
from components.runner import Task
from components.store import Artifact
from perscen.config import TrainConfig
from perscen.data.splits import Splits
from perscen.digests import json_digest
from perscen.manifests import ChampionManifest, ModelManifest
from perscen.models.config import ModelConfig
from perscen.models.families import load_model, make_model
from perscen.models.fingerprint import space_fingerprint
from perscen.models.ranks import rank
from perscen.models.two_tower import TwoTower
from perscen.models.warm_start import warm_start_from
from perscen.retrieval.bundle import open_bundle
from perscen.seeding import seed_torch
from perscen.training.checkpoint import Checkpoint
from perscen.training.distributed import process_group
from perscen.training.loop import Trained, Watcher
from perscen.training.loop import train as fit

logger = logging.getLogger(__name__)


def run(task: Task, *, model: ModelConfig, train: TrainConfig) -> ModelManifest:
    """Train the towers, going on from a checkpoint when an earlier attempt left one.

    Under torchrun the processes share the work; all return the same, and rank 0 alone keeps a
    checkpoint, tracks and shows progress.

    Raises:
        ConfigError: A setting does not fit the data, or there are more processes than GPUs.
        TrainingDiverged: The loss is not finite.
        Preempted: SIGTERM came; a checkpoint was written.
        ServiceUnavailable: Another process of the training is gone.
    """
    with process_group(train.device):
        return _train(task, model, train)


def _train(task: Task, model: ModelConfig, train: TrainConfig) -> ModelManifest:
    splits = Splits.open(task.inputs["splits"].path)
    towers, fresh = _start(task, splits, model, train)
    checkpoint = Checkpoint(
        task.state, fingerprint=_fingerprint(task, train), every_s=train.checkpoint_every_s
    )
    settings = {"model": model.model_dump(mode="json"), "train": train.model_dump(mode="json")}
    with _stop_on_sigterm() as stop, _watchers(task, settings, train) as watchers:
        trained = fit(
            towers,
            splits,
            train,
            checkpoint=checkpoint,
            stop=stop,
            watchers=watchers,
            pretrain=fresh,
        )
    task.notes["best_epoch"] = trained.best.epoch
    return _write(task, towers, trained, settings=settings, splits=splits)


@contextmanager
def _watchers(
    task: Task, settings: dict[str, Any], train: TrainConfig
) -> Iterator[Sequence[Watcher]]:
    if rank() != 0:
        yield ()
        return
    with (
        epoch_bars() as bars,
        tracking(tags=_tags(task), settings=settings, monitor_k=train.monitor_k) as tracker,
    ):
        task.notes.update(tracker.ids)
        yield (tracker, *bars)


def _start(
    task: Task, splits: Splits, model: ModelConfig, train: TrainConfig
) -> tuple[TwoTower, bool]:
    """Return the model to train, and whether it starts from nothing."""
    seed_torch(train.seed, "init")
    towers = make_model(splits.schema, model)
    towers.start_from(splits)
    if not train.warm_start:
        return towers, True
    champion = task.inputs["champion"]
    if champion.manifest.version is None:
        logger.info("no champion to start from, starting fresh")
        return towers, True
    _start_warm(champion, towers, splits)
    return towers, False


def _start_warm(champion: Artifact[ChampionManifest], towers: TwoTower, splits: Splits) -> None:
    bundle = open_bundle(champion.path / "bundle")
    # Two pairs serve when some scenarios stayed on an older model: start from the widest used.
    serving = Counter(bundle.manifest.scenarios.values())
    fingerprint = min(serving, key=lambda pair: (-serving[pair], pair))
    directory = bundle.model_directory(fingerprint)
    warm_start_from(
        towers,
        load_model(directory),
        old_vocabularies=json.loads((directory / "vocabularies.json").read_text(encoding="utf-8")),
        new_vocabularies=splits.vocabularies,
    )
    logger.info("started from the champion", extra={"version": champion.manifest.version})


def _fingerprint(task: Task, train: TrainConfig) -> str:
    """Return what a checkpoint of this training is known by: everything its weights follow from."""
    parents = dict(task.stamp["parents"])
    if not train.warm_start:
        parents.pop("champion")
    follows_from = [parents, task.stamp["config_digest"], task.stamp["code_version"]]
    return json_digest(follows_from)


def _tags(task: Task) -> dict[str, str]:
    return {
        "mlflow.runName": f"train {task.logical_date}",
        "run_id": task.run_id,
        "logical_date": task.logical_date.isoformat(),
        "splits_digest": task.inputs["splits"].manifest.digest,
    }


def _write(
    task: Task,
    towers: TwoTower,
    trained: Trained,
    *,
    settings: dict[str, Any],
    splits: Splits,
) -> ModelManifest:
    out = task.output
    towers.save(out)
    for name in ("vocabularies.json", "scalers.json"):
        shutil.copyfile(task.inputs["splits"].path / name, out / name)
    epochs = [record.model_dump() for record in trained.epochs]
    _write_json(out / "epochs.json", epochs)
    _write_json(out / "code_counts.json", trained.code_counts)
    (out / "plots").mkdir()
    losses = ("epoch", "loss", "task_loss", "auxiliary_loss")
    _write_json(out / "plots/loss.json", [{name: e[name] for name in losses} for e in epochs])
    _write_json(out / "plots/recall.json", _per_scenario(epochs, "recall", as_="recall"))
    _write_json(out / "plots/code_usage.json", _per_scenario(epochs, "code_usage", as_="usage"))
    train = {name: value for name, value in settings["train"].items() if name != "seed"}
    return ModelManifest(
        **task.stamp,
        family=towers.family,
        recipe_digest=json_digest({**settings, "train": train}),
        fingerprint=space_fingerprint(towers, splits.vocabularies),
        num_parameters=sum(parameter.numel() for parameter in towers.parameters()),
        best_epoch=trained.best.epoch,
        epochs=len(trained.epochs),
        valid_recall=trained.best.recall,
        code_usage=trained.best.code_usage,
        code_queries={name: sum(counts) for name, counts in trained.code_counts.items()},
        num_codes=towers.num_codes,
    )


def _per_scenario(epochs: list[dict[str, Any]], name: str, *, as_: str) -> list[dict[str, Any]]:
    return [
        {"epoch": epoch["epoch"], "scenario": scenario, as_: value}
        for epoch in epochs
        for scenario, value in epoch[name].items()
    ]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Give a flag that SIGTERM raises, so that the loop can write a checkpoint first."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told.is_set  # only the main thread may take signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
