"""What a training step of the recipe ``best`` costs as the catalogue grows.

Each catalogue is met in a process of its own, one thread, so that its peak memory is its own. The
step is the whole one: loading, both towers, the softmax, backward and optimiser, on rows of the
shape of KuaiRand-Pure. ``whole`` encodes every item in every step, a number so many of them.

Run: ``python -m bench.catalogue [--items 7583 100000 1000000] [--whole-up-to 100000]``
"""

from __future__ import annotations

import argparse
import os
import resource
from itertools import count

import numpy as np
from torch import multiprocessing

from bench.report import cpu_seconds
from bench.world import kuairand_world
from perscen.config import TrainConfig
from perscen.models.families import make_model
from perscen.recipes import BEST
from perscen.seeding import seed_torch
from perscen.training.device import torch_settings
from perscen.training.losses import Objective
from perscen.training.optimiser import Optimiser

ROWS, STEPS = 40_000, 5


def measure(num_items: int, softmax_items: int, sparse: bool) -> tuple[float, float]:
    """Return CPU seconds of a step, the median of several, and the process's peak GB."""
    splits = kuairand_world(num_rows=ROWS, num_items=num_items)
    settings = BEST.train.model_dump() | {
        "softmax_items": softmax_items,
        "optim": BEST.train.optim.model_dump() | {"sparse_embeddings": sparse},
        "num_threads": 1,
        "device": "cpu",
    }
    config = TrainConfig.model_validate(settings)
    seed_torch(0, "init")
    model = make_model(splits.schema, BEST.model).train()
    model.start_from(splits)
    optimiser = Optimiser(model, config.optim)
    rows_B = np.flatnonzero(splits.train.scenario == 0)[: config.batch.size]
    numbers = count()
    with torch_settings(config) as device:
        objective = Objective(model, splits, config, device=device)

        def step() -> None:
            optimiser.zero_grad()
            objective(rows_B, epoch=1, step=next(numbers)).total.backward()
            optimiser.step()

        seconds = cpu_seconds({"step": step}, repeats=STEPS)["step"]
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print a line per catalogue and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[7_583, 100_000, 1_000_000])
    parser.add_argument("--whole-up-to", type=int, default=100_000)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sample = BEST.train.softmax_items
    print("| items | softmax over | embeddings' gradients | CPU s per step | peak GB |")
    print("|---:|---|---|---:|---:|")
    for num_items in arguments.items:
        ways = [("whole", num_items, False)] if num_items <= arguments.whole_up_to else []
        ways += [(f"{sample:,}", sample, False), (f"{sample:,}", sample, True)]
        for name, size, sparse in ways:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, peak = pool.apply(measure, (num_items, size, sparse))
            kind = "sparse" if sparse else "dense"
            print(f"| {num_items:,} | {name} | {kind} | {seconds:.2f} | {peak:.1f} |", flush=True)


if __name__ == "__main__":
    main()
