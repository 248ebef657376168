"""A training as one of several processes runs it: ``python -m tests.training.shared CASE FOLDER``.

Without torchrun it is the training of one process. What it ends with is written to the folder, one
file per rank.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from components.exit_codes import exit_code
from perscen.config import TrainConfig
from perscen.errors import PerscenError
from perscen.models.config import FAMILY_CONFIGS
from perscen.models.families import make_model
from perscen.models.ranks import num_ranks, rank
from perscen.seeding import seed_torch
from perscen.training.checkpoint import Checkpoint
from perscen.training.distributed import process_group
from perscen.training.loop import train
from tests.factories import random_splits

SMALL: dict[str, Any] = {
    "family": "perscen",
    "emb": {"dim": 4, "init_std": 0.3},
    "gnn": {"layers": 1},
    "pref": {"dim": 4},
    "out_dim": 8,
}
BEST = SMALL | {
    "graph": {"power": "refined"},
    "vq": {"codebook_size": 4, "ema_decay": 0.9, "revive_after": 2, "mask_empty": True},
    "score": "cosine",
    "temperature": 0.1,
    "learn_temperature": True,
    "item_bias": "popularity",
    "shown_sequence": True,
}
PAPER = SMALL | {"vq": {"codebook_size": 4}}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "like the recipe that ships": (
        BEST,
        {
            "loss": "full_softmax",
            "optim": {"lr": 0.01, "weight_average": 0.5},
            "batch": {"size": 97, "unit": "positives", "by_scenario": True},
            "max_epochs": 15,
            "patience": 3,
        },
    ),
    "like the paper": (
        PAPER,
        {
            "loss": "bce",
            "optim": {"lr": 0.02},
            "batch": {"size": 350},
            "max_epochs": 15,
            "patience": 3,
        },
    ),
    "one row per pair": (
        SMALL | {"vq": {"codebook_size": 4, "init": "kmeans", "revive_after": 2}},
        {
            "loss": "sampled_softmax",
            "dedup": False,
            "optim": {"lr": 0.02, "sparse_embeddings": True},
            "neg": {"n": 3, "resample": "epoch"},
            "batch": {"size": 50, "unit": "positives"},
            "max_epochs": 2,
        },
    ),
    "statistics of the whole batch": (
        {"family": "adin", "emb": {"dim": 4, "init_std": 0.3}, "hidden": 8, "widths": [8]},
        {
            # Under a softmax a scenario's bias moves by rounding alone: its gradient is zero.
            "loss": "bce",
            "optim": {"lr": 0.02},
            "neg": {"n": 3},
            "batch": {"size": 51, "unit": "positives"},
            "max_epochs": 2,
        },
    ),
    "a stage before the first epoch": (
        {
            "family": "sass",
            "emb": {"dim": 4, "init_std": 0.3},
            "widths": [8],
            "out_dim": 8,
            "pretrain_epochs": 3,
            "pretrain_batch": 7,
        },
        {
            "optim": {"lr": 0.02},
            "neg": {"n": 3},
            "batch": {"size": 51, "unit": "positives"},
            "max_epochs": 2,
        },
    ),
    "hidden items of the whole batch": (
        {
            "family": "m5",
            "emb": {"dim": 4, "init_std": 0.3},
            "shared_experts": 2,
            "widths": [8],
            "item_widths": [8],
            # As good as all: which are is drawn by each process.
            "masked_items": {"weight": 1.0, "share": 1 - 1e-12},
        },
        {
            "loss": "bce",
            # A key's bias, which changes no attention, would else move by rounding alone.
            "optim": {"lr": 0.02, "weight_decay": 0.01},
            "neg": {"n": 3},
            "batch": {"size": 51, "unit": "positives"},
            "max_epochs": 2,
        },
    ),
    "a sample of the catalogue": (
        BEST,
        {
            "loss": "full_softmax",
            "softmax_items": 11,
            "optim": {"lr": 0.01},
            "batch": {"size": 31, "unit": "positives"},
            "max_epochs": 2,
        },
    ),
    "self-training": (
        {"family": "adin", "emb": {"dim": 4, "init_std": 0.3}, "hidden": 8, "widths": [8]},
        {
            "loss": "bce",
            "optim": {"lr": 0.02},
            "neg": {"n": 3},
            "batch": {"size": 51, "unit": "positives"},
            "self_training": {"share": 0.3, "warmup": 1, "ramp": 2},
            "max_epochs": 3,
        },
    ),
    "fewer rows than ranks": (
        BEST,
        {
            "loss": "full_softmax",
            "batch": {"size": 1, "unit": "positives"},
            "max_epochs": 1,
        },
    ),
    "diverging": (PAPER, {"optim": {"lr": 1e30}, "batch": {"size": 16, "unit": "positives"}}),
}


def run_case(name: str, *, checkpoint: Checkpoint | None = None, **hooks: Any) -> dict[str, Any]:
    """Train, and return what can be compared."""
    small = name == "fewer rows than ranks"
    splits = random_splits(num_users=5 if small else 21, num_items=30, per_user=9 if small else 24)
    model_settings, settings = CASES[name]
    common = {"device": "cpu", "monitor_k": 5, "num_threads": 1}
    seed_torch(0, "init")
    model_config: Any = FAMILY_CONFIGS[model_settings["family"]].model_validate(model_settings)
    model = make_model(splits.schema, model_config)
    model.start_from(splits)
    config = TrainConfig.model_validate(settings | common)
    trained = train(model, splits, config, checkpoint=checkpoint, **hooks)
    return {"trained": asdict(trained), "weights": model.state_dict(), "ranks": num_ranks()}


def in_worker(number: int, ranks: int, folder: Path) -> None:
    """Run every case but the diverging one as one of several processes, started by a test."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / f"store-{ranks}"), ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=number, world_size=ranks)
    made = {name: run_case(name) for name in CASES if name != "diverging"}
    torch.save(plain(made), folder / f"{ranks}-{number}.pt")
    torch.distributed.destroy_process_group()


def plain(results: Any) -> Any:
    """Return results with nothing in them that a safe load refuses."""
    if isinstance(results, torch.Tensor):
        return results.clone()
    if isinstance(results, dict):
        return {name: plain(value) for name, value in results.items()}
    if hasattr(results, "model_dump"):
        return results.model_dump()
    return [plain(value) for value in results] if isinstance(results, tuple | list) else results


class _Slow:
    """Tells how far it is, and leaves time for a signal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        note = self._folder / f".at-{rank()}"
        note.write_text(json.dumps({"epoch": epoch, "step": step, "process": os.getpid()}))
        note.rename(self._folder / f"at-{rank()}")
        time.sleep(0.05)

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        pass

    def epoch_done(self, record: object) -> None:
        pass


def main(name: str, folder: Path) -> int:
    """Train as the environment says and return the exit code."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with process_group("cpu"):
            keep = Checkpoint(folder / f"state-{rank()}", fingerprint="same", every_s=1e9)
            result = run_case(
                name, checkpoint=keep, stop=lambda: bool(told), watchers=[_Slow(folder)]
            )
            torch.save(plain(result), folder / f"{num_ranks()}-{rank()}.pt")
    except PerscenError as exc:
        said = {"error": type(exc).__name__, "message": exc.message, "told": bool(told)}
        (folder / f"said-{os.environ.get('RANK', '0')}").write_text(json.dumps(said))
        return exit_code(exc)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
