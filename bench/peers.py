"""Rows trained per CPU-second: PERSCEN through our path against torch-rechub's DSSM with its own.

Both learn from the same pairs of the same random log with KuaiRand-Pure's fields, one row per
(positive, candidate), by binary cross-entropy and dense Adam, embeddings 16 wide, output 64 wide:

torch-rechub   its DSSM, loader and trainer as in its own example: towers of 256, 128 and 64,
               batches of 4,096 pairs, no worker processes
perscen        PERSCEN with the paper's settings: batches of 4,096 positives with 10 negatives each
perscen small  the same in batches of 372 positives, which are as many pairs as torch-rechub's

What differs: DSSM is a far smaller model (no graph, no codebook, no gates), its pairs are drawn and
joined beforehand, and a dense field is one input of it; ours draws negatives and gathers features
within the time, and a dense field is a node 16 wide.

Run: ``python -m bench.peers [--repeats 5]``
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable

import numpy as np
import torch
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import MatchDataGenerator

from bench.loaders import CONFIG, POSITIVES, TrainingStep, candidates
from bench.report import Result, cpu_seconds, table
from bench.step import NEGATIVES
from bench.world import Columns, kuairand_world, pair_columns
from perscen.schema import Schema, TowerSchema
from perscen.training.device import torch_settings

BATCH_PAIRS = 4096
DIM = 16
TOWER = {"dims": [256, 128, 64], "activation": "prelu"}
OPTIM = {"lr": 1e-4, "weight_decay": 1e-6}
TARGET = 3.0

Feature = SparseFeature | SequenceFeature | DenseFeature


def rechub_epoch(schema: Schema, columns: Columns) -> Callable[[], object]:
    """Return one epoch over the pairs, as torch-rechub's trainer does it."""
    torch.manual_seed(0)
    user_features = _features("user", schema.user)
    user_features.append(SparseFeature("scenario", len(schema.scenarios), DIM))
    user_features += [
        SequenceFeature(name, schema.num_item_rows, DIM, pooling="mean", shared_with="item/item_id")
        for name in ("history", "spec_history")
    ]
    model = DSSM(
        user_features, _features("item", schema.item), user_params=TOWER, item_params=TOWER
    )
    inputs = {name: values for name, values in columns.items() if name != "label"}
    loader, _, _ = MatchDataGenerator(inputs, columns["label"]).generate_dataloader(
        inputs, inputs, batch_size=BATCH_PAIRS, num_workers=0
    )
    trainer = MatchTrainer(model, mode=0, optimizer_params=OPTIM)

    def epoch() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            trainer.train_one_epoch(loader)

    return epoch


def _features(tower: str, schema: TowerSchema) -> list[Feature]:
    return [
        *(SparseFeature(f"{tower}/{f.name}", f.num_rows, DIM) for f in schema.categorical),
        *(DenseFeature(f"{tower}/{name}") for name in schema.dense),
        *(SequenceFeature(f"{tower}/{f.name}", f.num_rows, DIM) for f in schema.bags),
    ]


def run(*, repeats: int = 5) -> list[Result]:
    """Print rows per CPU-second and return the ratio."""
    torch.set_num_threads(1)
    splits = kuairand_world(num_rows=20 * POSITIVES)
    rows_B = np.arange(POSITIVES)
    columns = pair_columns(splits, rows_B, candidates(splits, rows_B))
    ours = TrainingStep(splits, POSITIVES)
    small = TrainingStep(splits, POSITIVES)

    def small_steps() -> None:
        few = BATCH_PAIRS // (NEGATIVES + 1)
        for start in range(0, POSITIVES, few):
            small.rows_B = rows_B[start : start + few]
            with torch_settings(CONFIG):
                small.update(small.loss)

    seconds = cpu_seconds(
        {
            "torch-rechub DSSM": rechub_epoch(splits.schema, columns),
            "perscen": ours,
            "perscen small": small_steps,
        },
        repeats=repeats,
    )
    num_pairs = len(columns["label"])
    print(f"{num_pairs:,} pairs, median of {repeats}, one thread")
    peer = seconds["torch-rechub DSSM"]
    for way, taken in seconds.items():
        print(f"  {way:17} {num_pairs / taken:9,.0f} rows/CPU-s  {peer / taken:5.2f} x")
    ratio = peer / seconds["perscen"]
    return [Result("rows per second, against torch-rechub's DSSM", ratio, TARGET)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    print(table(run(repeats=parser.parse_args().repeats)))
