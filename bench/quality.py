"""How well a recipe trains on given splits: validation recall per scenario against popularity.

Reads the validation window alone, so that settings can be compared without looking at the test::

    python -m bench.quality data/splits --recipe best --set train.optim.lr=0.001 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perscen.config import TrainConfig
from perscen.data.splits import Splits
from perscen.evaluation.metrics import find_hits, mean_over_users, relevant_of
from perscen.models.families import make_model
from perscen.recipes import RECIPES, Recipe, recipe_named
from perscen.schema import FIRST_ROW
from perscen.seeding import seed_torch
from perscen.training.loop import train


def main(argv: Sequence[str] | None = None) -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("splits", type=Path, help="a splits artifact")
    parser.add_argument("--recipe", default="best", choices=sorted(RECIPES))
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    splits = Splits.open(arguments.splits)
    recipe = with_overrides(recipe_named(arguments.recipe), arguments.set)
    k = recipe.train.monitor_k
    rows = {"popularity": popularity_recall(splits, k)}
    for seed in arguments.seeds:
        rows[f"seed {seed}"] = trained_recall(splits, recipe, seed=seed)
    print(table(rows, splits.schema.scenarios, k))


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a recipe with settings such as ``train.optim.lr=0.001`` changed."""
    trees: dict[str, Any] = {name: part.model_dump() for name, part in recipe._asdict().items()}
    for override in overrides:
        path, _, value = override.partition("=")
        *parents, leaf = path.split(".")
        tree = trees
        for parent in parents:
            tree = tree[parent]
        if leaf not in tree:
            raise SystemExit(f"{path} is not a setting; known here: {', '.join(tree)}")
        tree[leaf] = yaml.safe_load(value)
    return Recipe(
        type(recipe.model).model_validate(trees["model"]),
        TrainConfig.model_validate(trees["train"]),
    )


def trained_recall(splits: Splits, recipe: Recipe, *, seed: int) -> dict[str, float]:
    """Return the best epoch's validation recall per scenario."""
    config = recipe.train.model_copy(update={"seed": seed})
    seed_torch(seed, "init")
    model = make_model(splits.schema, recipe.model)
    model.start_from(splits)
    trained = train(model, splits, config, watchers=[_Printer()])
    return trained.best.recall


class _Printer:
    def step_done(self, **_: Any) -> None: ...

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        print(f"pre-training epoch {epoch:2}  loss {loss:.4f}", file=sys.stderr)

    def epoch_done(self, record: Any) -> None:
        recalls = "  ".join(f"{s}: {100 * r:5.2f}" for s, r in record.recall.items())
        usage = "  ".join(f"{u:.0%}" for u in record.code_usage.values())
        print(
            f"epoch {record.epoch:2}  loss {record.loss:.4f}  macro {100 * record.macro_recall:.2f}"
            f"  {recalls}  codes {usage}",
            file=sys.stderr,
        )


def popularity_recall(splits: Splits, k: int) -> dict[str, float]:
    """Return the validation recall of each scenario's most clicked items of the training window."""
    recall = {}
    for number, scenario in enumerate(splits.schema.scenarios):
        clicks = splits.train.item[splits.train.scenario == number]
        counts = np.bincount(clicks, minlength=splits.schema.num_item_rows)[FIRST_ROW:]
        top = np.argsort(-counts, kind="stable")[:k] + FIRST_ROW
        queries = np.flatnonzero(splits.valid.scenario == number)
        if len(queries):
            lists = np.broadcast_to(top, (len(queries), k))
            hits = find_hits(lists, relevant_of(splits.valid, queries))
            recall[scenario] = mean_over_users(hits.recall_at(k))
    return recall


def table(rows: dict[str, dict[str, float]], scenarios: Sequence[str], k: int) -> str:
    """Return the recalls in percent, one row per method, the macro mean last."""
    lines = [f"recall@{k} %    " + "".join(f"{scenario:>8}" for scenario in (*scenarios, "macro"))]
    for name, recall in rows.items():
        values = [recall.get(scenario, np.nan) for scenario in scenarios]
        values.append(float(np.nanmean(values)))
        lines.append(f"{name:<15}" + "".join(f"{100 * value:8.2f}" for value in values))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
