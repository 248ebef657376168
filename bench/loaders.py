"""A whole training step, loading included, against the row-wise way with the loaders people use.

The row-wise way has one row per (positive, negative) pair: in a table, in the loader and in both
towers (tests/models/reference.py). It is timed on a part of a batch, since both halves of it cost
the same for every row, and scaled to the batch:

frame     a pandas DataFrame read by ``frame.iloc[i]``, rows collated by torch's DataLoader
columns   a dict of arrays, each read at ``[i]``, collated the same way
plain     forward, backward and Adam of those rows, equation by equation
row-wise  the same through our own model

Ours is the product's own: negatives drawn, features and histories gathered by index, users once
per positive, items once per distinct (item, scenario), backward, Adam.

Run: ``python -m bench.loaders [--repeats 5]``
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from bench.report import Result, cpu_seconds, table
from bench.step import NEGATIVES, plain_loss, row_wise_loss
from bench.world import Columns, kuairand_world, pair_columns
from perscen.config import BatchConfig, NegativesConfig, TrainConfig
from perscen.data.batches import ItemBatch, ItemSource, UserBatch, UserSource
from perscen.data.sampling import NegativeSampler
from perscen.data.splits import Splits
from perscen.models.config import PerscenConfig
from perscen.models.perscen import Perscen
from perscen.training.device import torch_settings
from perscen.training.losses import Objective
from perscen.training.optimiser import Optimiser

POSITIVES = 4096
PLAIN_POSITIVES = 512
"""Of the row-wise step: 5,632 rows, whose memory stays in bounds."""
LOADED_ROWS = 2048
TARGET = 25.0

CONFIG = TrainConfig(
    neg=NegativesConfig(n=NEGATIVES),
    batch=BatchConfig(size=POSITIVES, unit="positives"),
    num_threads=1,
)


class Pairs(NamedTuple):
    """One row per pair, as tensors."""

    pair_users: UserBatch
    pair_items: ItemBatch
    labels_BC: Tensor


class FrameRows(Dataset[dict[str, Any]]):
    """A DataFrame, one row at a time."""

    def __init__(self, columns: Columns) -> None:
        self.frame = pd.DataFrame(
            {name: list(v) if v.ndim == 2 else v for name, v in columns.items()}
        )

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.frame.iloc[index]
        return {name: row[name] for name in self.frame.columns}


class ColumnRows(Dataset[dict[str, Any]]):
    """A dict of columns, one row at a time."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self.columns.items()}


class TrainingStep:
    """The product's own step on the first rows of the training window."""

    def __init__(self, splits: Splits, positives: int) -> None:
        torch.manual_seed(0)
        self.model = Perscen(splits.schema, PerscenConfig()).train()
        self.rows_B = np.arange(positives)
        self.objective = Objective(self.model, splits, CONFIG, device=torch.device("cpu"))
        self.optimiser = Optimiser(self.model, CONFIG.optim)

    def loss(self) -> Tensor:
        """Return the loss; the negatives are those of the first step of the first epoch."""
        return self.objective(self.rows_B, epoch=1, step=0).total

    def __call__(self) -> None:
        """Take the step under the settings of a training."""
        with torch_settings(CONFIG):
            self.update(self.loss)

    def update(self, loss: Callable[[], Tensor]) -> None:
        """Take one step down a loss."""
        self.optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()


def candidates(splits: Splits, rows_B: np.ndarray) -> np.ndarray:
    """Return ``[B, C]``, each row's item and the negatives of the first step."""
    sampler = NegativeSampler(
        splits.train, num_item_rows=splits.schema.num_item_rows, config=CONFIG.neg, seed=CONFIG.seed
    )
    positive_B1 = splits.train.item[rows_B, None].astype(np.int64)
    return np.concatenate([positive_B1, sampler.draw(rows_B, epoch=1, step=0)], axis=1)


def as_pairs(splits: Splits, rows_B: np.ndarray, items_BC: np.ndarray) -> Pairs:
    """Return what the row-wise towers read."""
    row_P = np.repeat(rows_B, items_BC.shape[1])
    labels_BC = torch.zeros(items_BC.shape)
    labels_BC[:, 0] = 1
    return Pairs(
        UserSource(splits).batch(
            splits.train.user, splits.train.scenario, splits.train_slices, row_P
        ),
        ItemSource(splits.items).batch(torch.from_numpy(items_BC.reshape(-1))),
        labels_BC,
    )


def run(*, repeats: int = 5) -> list[Result]:
    """Print CPU seconds per batch and return the ratio."""
    torch.set_num_threads(1)
    splits = kuairand_world(num_rows=20 * POSITIVES)
    few_B = np.arange(PLAIN_POSITIVES)
    few = TrainingStep(splits, PLAIN_POSITIVES)
    pairs = as_pairs(splits, few_B, candidates(splits, few_B))
    few.loss()  # the codebook starts from its first batch
    gap = abs(few.loss().item() - plain_loss(few.model, pairs).item())
    if gap > 1e-5:
        raise SystemExit(f"the losses differ by {gap:.2e}: the comparison is void")

    rows_B = np.arange(POSITIVES)
    columns = pair_columns(splits, rows_B, candidates(splits, rows_B))
    ours = TrainingStep(splits, POSITIVES)
    users = UserSource(splits)
    train, slices = splits.train, splits.train_slices
    seconds = cpu_seconds(
        {
            "frame": _loading(FrameRows(columns)),
            "columns": _loading(ColumnRows(columns)),
            "plain": lambda: few.update(lambda: plain_loss(few.model, pairs)),
            "row-wise": lambda: few.update(lambda: row_wise_loss(few.model, pairs)),
            "ours": ours,
            "our loading": lambda: users.batch(train.user, train.scenario, slices, rows_B),
        },
        repeats=repeats,
    )
    num_pairs = len(columns["label"])
    for way in ("frame", "columns"):
        seconds[way] *= num_pairs / LOADED_ROWS
    for way in ("plain", "row-wise"):
        seconds[way] *= POSITIVES / PLAIN_POSITIVES
    print(
        f"{POSITIVES:,} positives x {NEGATIVES} negatives = {num_pairs:,} pairs, CPU seconds per "
        f"batch, one thread, median of {repeats}\n"
        f"(scaled: loaders from {LOADED_ROWS:,} rows, row-wise step from {PLAIN_POSITIVES} "
        "positives)"
    )
    seconds["our step"] = seconds["ours"] - seconds["our loading"]
    for loading, step in (
        ("frame", "plain"),
        ("columns", "plain"),
        ("frame", "row-wise"),
        ("columns", "row-wise"),
        ("our loading", "our step"),
    ):
        ratio = (seconds[loading] + seconds[step]) / seconds["ours"]
        print(
            f"  {loading:11} {seconds[loading]:7.3f}   {step:8} {seconds[step]:7.3f}"
            f"   {ratio:5.1f} x ours"
        )
    ratio = (seconds["frame"] + seconds["plain"]) / seconds["ours"]
    return [Result("step with loading, against pandas rows", ratio, TARGET)]


def _loading(rows: Dataset[dict[str, Any]]) -> Callable[[], object]:
    sampler = RandomSampler(rows, num_samples=LOADED_ROWS)  # type: ignore[arg-type]
    loader = DataLoader(rows, batch_size=LOADED_ROWS, sampler=sampler)
    return lambda: next(iter(loader))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    print(table(run(repeats=parser.parse_args().repeats)))
