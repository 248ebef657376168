"""The training step shared by processes of one machine against the step of one process.

Both take the same batches of the same splits at the KuaiRand shape, one thread per process, loading
and optimiser included. They take turns and wait for each other, so that whatever else the machine
does falls on both; what counts is wall time, of the shared step that of its last process.

Run: ``python -m bench.ranks [--processes 2] [--repeats 5] [--recipe best paper]``
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from bench.world import kuairand_world
from perscen.config import TrainConfig
from perscen.models.families import make_model
from perscen.models.ranks import rank
from perscen.recipes import RECIPES
from perscen.seeding import seed_torch
from perscen.training.batching import plan_batches
from perscen.training.device import torch_settings
from perscen.training.distributed import add_up_gradients, start_alike
from perscen.training.losses import Objective
from perscen.training.optimiser import Optimiser

ROWS = 40_000


def work(number: int, folder: Path, turn: Any, arguments: argparse.Namespace) -> None:
    """Take steps whenever it is this process's turn: process 0 alone, the others together."""
    if number:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=number - 1,
            world_size=arguments.processes,
        )
    splits = kuairand_world(num_rows=ROWS)
    taken = {
        name: _steps(number, name, splits, turn, arguments.repeats) for name in arguments.recipe
    }
    torch.save(taken, folder / f"{number}.pt")


def _steps(number: int, recipe: str, splits: Any, turn: Any, repeats: int) -> list[list[float]]:
    settings, train = RECIPES[recipe]
    whole = {"softmax_items": splits.schema.num_item_rows}  # more to share than a sample of it
    config = TrainConfig.model_validate(
        train.model_dump() | whole | {"num_threads": 1, "device": "cpu"}
    )
    seed_torch(0, "init")
    model = make_model(splits.schema, settings).train()
    start_alike(model)
    optimiser = Optimiser(model, config.optim)
    taken = []
    with torch_settings(config) as device:
        objective = Objective(model, splits, config, device=device)
        rows = objective.rows
        batches = plan_batches(
            rows.seen.scenario, positives=rows.clicks, shown=rows.shown[:0], config=config, epoch=1
        )
        full = [batch for batch in batches if len(batch) > max(map(len, batches)) * 0.9]
        for step, rows_B in enumerate(full[: repeats + 1]):
            for first in (True, False):
                turn.wait()
                if first != (number == 0):
                    continue
                wall, cpu = time.perf_counter(), time.process_time()
                seed_torch(0, "step", 1, step, *([rank()] if rank() else []))
                loss = objective(rows_B, epoch=1, step=step)
                optimiser.zero_grad()
                loss.total.backward()
                add_up_gradients(model.parameters(), (loss.total, loss.auxiliary))
                optimiser.step()
                if step:  # the one before the first is not counted
                    taken.append([time.perf_counter() - wall, time.process_time() - cpu])
    turn.wait()
    return taken


def main() -> None:
    """Read the command line and print wall and CPU time per step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=["best", "paper"])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    turn = multiprocessing.get_context("spawn").Barrier(arguments.processes + 1)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (Path(folder), turn, arguments), nprocs=arguments.processes + 1)
        taken = [torch.load(path) for path in sorted(Path(folder).glob("*.pt"))]
    for recipe in arguments.recipe:
        alone, *together = (steps[recipe] for steps in taken)
        print(f"recipe {recipe}, median of {arguments.repeats} steps")
        print("                  wall s   CPU s of the busiest   of all   wall, x one process")
        for ways, ends in ((1, [alone]), (arguments.processes, together)):
            steps = list(zip(*ends, strict=True))
            wall, busiest, total = (
                statistics.median(of(step) for step in steps)
                for of in (
                    lambda step: max(wall for wall, _ in step),
                    lambda step: max(cpu for _, cpu in step),
                    lambda step: sum(cpu for _, cpu in step),
                )
            )
            ratio = statistics.median(wall for wall, _ in alone) / wall
            print(f"  {ways:2} processes {wall:9.3f} {busiest:22.3f} {total:8.3f} {ratio:14.2f} x")


if __name__ == "__main__":
    main()
