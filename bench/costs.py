"""What every family costs: parameters, operations, and times measured in one run.

One row per family with the recipe ``paper``, and PERSCEN with GRU cells for its gated units. Rivals
take turns in one process on one thread, so read the ratios; what is counted and what is not stands
on the page. Writes page and CSV, in about four minutes of CPU time::

    python -m bench.costs artifacts/splits --out docs/results
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.report import cpu_seconds
from components.marks import put_between_marks
from perscen.config import TrainConfig
from perscen.data.batches import ItemBatch, ItemSource, UserBatch, UserSource
from perscen.data.splits import Splits
from perscen.models.families import MODELS, make_model
from perscen.models.two_tower import TwoTower
from perscen.recipes import Recipe, recipe_named
from perscen.schema import FIRST_ROW
from perscen.seeding import seed_torch
from perscen.training.allocator import keep_freed_memory
from perscen.training.batching import positives_per_batch
from perscen.training.losses import Objective
from perscen.training.optimiser import Optimiser, embedding_tables

YARDSTICK = "dssm"
PAIRS = 4096
CPU = torch.device("cpu")
WAYS = ("row-wise", "grouped")
FIXED = {
    "parameters": ("parameters, million", "{:.3f}"),
    "embeddings": ("of them embeddings", "{:.3f}"),
    "dense": ("of them dense", "{:.3f}"),
    "mib": ("MiB as float32", "{:.1f}"),
    "user_macs": ("MACs per user vector", "{:,.0f}"),
    "item_macs": ("MACs per item vector", "{:,.0f}"),
    "gflops_row-wise": ("GFLOPs, row-wise", "{:.2f}"),
    "gflops_grouped": ("GFLOPs, grouped", "{:.2f}"),
}
TIMED = {
    "epoch": "training, CPU s per epoch",
    "pairs": "scoring the pairs, CPU ms",
    "users": "4,096 user vectors, CPU ms",
}
Costs = dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, then write page and CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("splits", type=Path, help="a splits artifact")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--families", nargs="+", default=sorted(MODELS), choices=sorted(MODELS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    a = parser.parse_args(argv)
    costs = measure(Splits.open(a.splits, hide_test=True), a.families, repeats=a.repeats)
    a.out.mkdir(parents=True, exist_ok=True)
    page = "\n".join([*fixed_table(costs), "", *time_table(costs), ""])
    put_between_marks(a.out / "costs.md", page, made_by="bench.costs")
    pl.DataFrame([{"model": name, **cost} for name, cost in costs.items()]).write_csv(
        a.out / "costs.csv", float_precision=6
    )
    print(page)


def measure(splits: Splits, families: Sequence[str], *, repeats: int) -> dict[str, Costs]:
    """Return what each costs, by name: counts, and CPU seconds measured by turns."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    rivals = [Rival(name, recipe, splits) for name, recipe in recipes(families).items()]
    costs = {rival.name: rival.count() for rival in rivals}
    for measured in ("epoch", "pairs", "users"):
        ways: dict[str, Callable[[], object]] = {}
        for rival in rivals:
            ways |= {f"{rival.name} {way}": work for way, work in rival.work(measured).items()}
        seconds = cpu_seconds(ways, repeats=repeats)
        for rival in rivals:
            for way in rival.work(measured):
                times = rival.steps_per_epoch if measured == "epoch" else 1
                costs[rival.name][f"{measured}_s_{way}"] = times * seconds[f"{rival.name} {way}"]
    return costs


def recipes(families: Sequence[str]) -> dict[str, Recipe]:
    """Return the recipe ``paper`` of each family, and of PERSCEN with GRU cells."""
    rows = {family: recipe_named("paper", family=family) for family in families}
    if "perscen" in rows:
        model: Any = rows["perscen"].model
        gru = model.model_copy(update={"fusion": "gru"})
        rows["perscen, GRU"] = Recipe(gru, rows["perscen"].train)
    return rows


class Rival:
    """A model with the batches that it is measured on: the same for all."""

    def __init__(self, name: str, recipe: Recipe, splits: Splits) -> None:
        self.name = name
        self._splits = splits
        self._train: TrainConfig = recipe.train
        seed_torch(0, "init")
        self.model: TwoTower = make_model(splits.schema, recipe.model)
        self.model.start_from(splits)
        positives = positives_per_batch(self._train)
        rng = np.random.default_rng(0)
        order = rng.permutation(len(splits.train.item))
        self._rows_B = order[np.arange(positives) % len(order)]
        self.steps_per_epoch = -(-len(order) // positives)
        users, items = UserSource(splits), ItemSource(splits.items)
        many = order[np.arange(PAIRS) % len(order)]
        candidates = rng.integers(FIRST_ROW, items.num_rows, (positives, self._train.neg.n + 1))
        self._user_batches = {
            "row-wise": self._queries(users, np.repeat(self._rows_B, candidates.shape[1])),
            "grouped": self._queries(users, self._rows_B),
            "queries": self._queries(users, many),
        }
        rows_P = torch.from_numpy(candidates.reshape(-1))
        scenario_P = self._user_batches["row-wise"].scenario_B
        keys_K, self._pair_P = torch.unique(
            rows_P * len(splits.schema.scenarios) + scenario_P, return_inverse=True
        )
        items_K = keys_K // len(splits.schema.scenarios)
        rows_M, index_K = torch.unique(items_K, return_inverse=True)
        self._item_batches: dict[str, tuple[ItemBatch, torch.Tensor, torch.Tensor]] = {
            "row-wise": (items.batch(rows_P), torch.arange(len(rows_P)), scenario_P),
            "grouped": (items.batch(rows_M), index_K, keys_K % len(splits.schema.scenarios)),
        }

    def _queries(self, users: UserSource, rows: np.ndarray) -> UserBatch:
        train = self._splits.train
        return users.batch(train.user, train.scenario, self._splits.train_slices, rows)

    def count(self) -> Costs:
        """Return parameters and operations; one operation is half a multiply-accumulate."""
        self.model.train()  # a first batch starts a codebook
        with torch.no_grad():
            self.model.encode_users(self._user_batches["grouped"])
        self.model.eval()
        embeddings = sum(table.numel() for table in embedding_tables(self.model))
        parameters = sum(weights.numel() for weights in self.model.parameters())
        users, pairs = self._user_batches["row-wise"], self._item_batches["row-wise"]
        num_pairs = len(users.scenario_B)
        macs = {
            "user": flops(lambda: self.model.encode_users(users)) / 2 / num_pairs,
            "item": flops(lambda: self.model.encode_items(*pairs)) / 2 / num_pairs,
        }
        return {
            "parameters": parameters / 1e6,
            "embeddings": embeddings / 1e6,
            "dense": (parameters - embeddings) / 1e6,
            "mib": 4 * parameters / 2**20,
            "user_macs": macs["user"],
            "item_macs": macs["item"],
            **{f"gflops_{way}": flops(lambda way=way: self.score(way)) / 1e9 for way in WAYS},
        }

    def work(self, measured: str) -> dict[str, Callable[[], object]]:
        """Return what is timed, by way."""
        if measured == "users":
            return {"grouped": lambda: self.encode(self._user_batches["queries"])}
        if measured == "pairs":
            return {way: lambda way=way: self.score(way) for way in WAYS}
        return {way: self.step(dedup=way == "grouped") for way in WAYS}

    @torch.inference_mode()
    def encode(self, users: UserBatch) -> torch.Tensor:
        """Return user vectors, as an answer to queries begins."""
        return self.model.eval().encode_users(users).vectors_BG

    @torch.no_grad()
    def score(self, way: str) -> torch.Tensor:
        """Return the scores of the pairs, one row per pair or each user and item once."""
        self.model.eval()
        users_BG = self.model.encode_users(self._user_batches[way]).vectors_BG
        items_KG = self.model.encode_items(*self._item_batches[way])
        if way == "row-wise":
            return (users_BG * items_KG).sum(dim=1)
        items_BCG = items_KG[self._pair_P].view(len(users_BG), -1, items_KG.shape[1])
        return (items_BCG @ users_BG[:, :, None]).flatten()

    def step(self, *, dedup: bool) -> Callable[[], object]:
        """Return a whole training step: loading, forward, backward, optimiser."""
        config = self._train.model_copy(update={"dedup": dedup})
        objective = Objective(self.model, self._splits, config, device=CPU)
        optimiser = Optimiser(self.model, config.optim)

        def take() -> None:
            self.model.train()
            optimiser.zero_grad()
            objective(self._rows_B, epoch=1, step=0).total.backward()
            optimiser.step()

        return take


def flops(work: Callable[[], object]) -> float:
    """Return the operations of matrix products, two per multiply-accumulate."""
    # The counter knows attention by its products alone.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def fixed_table(costs: dict[str, Costs]) -> list[str]:
    """Return parameters and operations as Markdown."""
    heads = [title for title, _ in FIXED.values()]
    lines = [f"| model | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name, cost in by_size(costs):
        cells = [form.format(cost[key]) for key, (_, form) in FIXED.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def time_table(costs: dict[str, Costs]) -> list[str]:
    """Return times as Markdown, each with its ratio to the yardstick's of the same kind."""
    columns = [(key, way) for key in TIMED for way in WAYS if f"{key}_s_{way}" in costs[YARDSTICK]]
    heads = [TIMED[key] + (f", {way}" if key != "users" else "") for key, way in columns]
    lines = [f"| model | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name, cost in by_size(costs):
        cells = []
        for key, way in columns:
            seconds, yard = cost[f"{key}_s_{way}"], costs[YARDSTICK][f"{key}_s_{way}"]
            shown = f"{seconds:.0f}" if key == "epoch" else f"{1000 * seconds:.0f}"
            cells.append(f"{shown} ({seconds / yard:.1f} ×)")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def by_size(costs: dict[str, Costs]) -> list[tuple[str, Costs]]:
    """Return the models by falling speed of a row-wise pair, as counted."""
    return sorted(costs.items(), key=lambda entry: entry[1]["gflops_row-wise"])


if __name__ == "__main__":
    main()
