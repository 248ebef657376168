"""The recipes against the popularity rankers on the test window, over several seeds.

Trains every recipe with every seed on given splits, scores the test queries once each, and writes
the table as a page and its numbers as CSV. A run that was stopped goes on where it was::

    python -m bench.slice artifacts/splits --recipes best paper --seeds 5 --out docs/results
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.report import put_between_marks
from perscen.config import EvaluateConfig
from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Splits
from perscen.evaluation.baselines import (
    RandomRanker,
    global_popularity,
    scenario_popularity,
    segment_popularity,
)
from perscen.evaluation.evaluate import score_all
from perscen.evaluation.rankers import ModelRanker
from perscen.evaluation.segments import choose_segments
from perscen.evaluation.summary import metrics_of, summarise
from perscen.models.families import make_model
from perscen.recipes import RECIPES, recipe_named
from perscen.retrieval.exact import catalogue_vectors, exact_top_k, query_vectors
from perscen.schema import FIRST_ROW
from perscen.seeding import seed_torch
from perscen.training.loop import train

BASELINES = ("segment_popularity", "scenario_popularity", "global_popularity", "random")
CONFIG = EvaluateConfig()


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, then write page and CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("splits", type=Path, help="a splits artifact")
    parser.add_argument("--recipes", nargs="+", default=["best"], choices=sorted(RECIPES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--table-only", action="store_true", help="train nothing more")
    parser.add_argument("--work", type=Path, default=Path("build/slice"), help="kept between runs")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    a = parser.parse_args(argv)
    digest = json.loads((a.splits / "manifest.json").read_text())["digest"][:12]
    work = a.work / digest
    work.mkdir(parents=True, exist_ok=True)
    runs = [(recipe, seed) for seed in range(a.seeds) for recipe in a.recipes]
    missing = [run for run in runs if not _scores(work, *run).exists()]
    todo = [] if a.table_only else missing
    with ProcessPoolExecutor(a.jobs, multiprocessing.get_context("spawn")) as pool:
        started = [pool.submit(run_seed, a.splits, work, *run) for run in todo]
        for done in as_completed(started):
            print(done.result(), flush=True)
    baselines = score_baselines(Splits.open(a.splits), seeds=a.seeds)
    page, table = compile_results(work, baselines, recipes=a.recipes, seeds=a.seeds)
    a.out.mkdir(parents=True, exist_ok=True)
    put_between_marks(a.out / "kuairand-slice.md", page, made_by="bench.slice")
    table.write_csv(a.out / "kuairand-slice.csv", float_precision=6)
    print(page)


def run_seed(splits_dir: Path, work: Path, recipe: str, seed: int) -> str:
    """Train one recipe with one seed and keep its per-user scores."""
    logging.basicConfig(level=logging.WARNING)
    splits = Splits.open(splits_dir)
    model_config, train_config = recipe_named(recipe)
    config = train_config.model_copy(update={"seed": seed, "num_threads": 1})
    seed_torch(seed, "init")
    model = make_model(splits.schema, model_config)
    model.start_from(splits)
    cpu = time.process_time()
    trained = train(model, splits, config)
    cpu = time.process_time() - cpu
    vectors_QG = query_vectors(model, UserSource(splits), splits.test, splits.test_slices)
    items_SVG = catalogue_vectors(model, ItemSource(splits.items))

    def search(scenario: int) -> Any:
        return lambda queries_QG, k: exact_top_k(queries_QG, items_SVG[scenario], k)[1].numpy()

    scores = score_all(
        {recipe: ModelRanker(vectors_QG, splits.test, search)}, splits, config=CONFIG
    )
    facts = {"seed": seed, "best_epoch": trained.best.epoch, "train_cpu_s": round(cpu)}
    path = _scores(work, recipe, seed)
    scores.with_columns(pl.lit(value).alias(name) for name, value in facts.items()).write_parquet(
        path.with_suffix(".part")
    )
    path.with_suffix(".part").rename(path)
    return f"{recipe} seed {seed}: best epoch {trained.best.epoch}, {cpu:.0f} CPU seconds"


def score_baselines(splits: Splits, *, seeds: int) -> pl.DataFrame:
    """Return the per-user scores of the rankers that need no training; random over the seeds."""
    segments = choose_segments(splits, num_columns=CONFIG.segment_columns)
    queries = splits.test
    fixed = {
        "segment_popularity": segment_popularity(splits, queries, segments),
        "scenario_popularity": scenario_popularity(splits, queries),
        "global_popularity": global_popularity(splits, queries),
    }
    num_items = splits.schema.num_item_rows - FIRST_ROW
    frames = [score_all(fixed, splits, config=CONFIG).with_columns(pl.lit(0).alias("seed"))]
    for seed in range(seeds):
        scores = score_all({"random": RandomRanker(num_items, seed=seed)}, splits, config=CONFIG)
        frames.append(scores.with_columns(pl.lit(seed).alias("seed")))
    return pl.concat(frames)


def compile_results(
    work: Path, baselines: pl.DataFrame, *, recipes: Sequence[str], seeds: int
) -> tuple[str, pl.DataFrame]:
    """Return the Markdown tables, and the mean and deviation of every cell."""
    trained = pl.concat(
        pl.read_parquet(_scores(work, recipe, seed))
        for recipe in recipes
        for seed in range(seeds)
        if _scores(work, recipe, seed).exists()
    )
    everything = pl.concat([trained.select(baselines.columns), baselines])
    cells = _cells(everything)
    scenarios = everything["scenario"].unique(maintain_order=True).to_list()
    lines = [*_recall_table(cells, [*recipes, *BASELINES], scenarios, everything), ""]
    for recipe in recipes:
        lines += [*_difference_table(everything, recipe, scenarios), ""]
    lines += _cost_table(trained, recipes)
    return "\n".join(lines) + "\n", cells


def _cells(everything: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for (model,), frame in everything.group_by("model", maintain_order=True):
        per_seed = [
            metrics_of(part.drop("seed"))[str(model)]
            for part in frame.partition_by("seed", maintain_order=True)
        ]
        for metric, by_scenario in per_seed[0].items():
            for scenario in by_scenario:
                values = np.array([one[metric][scenario] for one in per_seed])
                sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
                rows.append((str(model), metric, scenario, len(values), float(values.mean()), sd))
    names = ["model", "metric", "scenario", "num_seeds", "mean", "sd"]
    return pl.DataFrame(rows, schema=names, orient="row")


def _recall_table(
    cells: pl.DataFrame, models: Sequence[str], scenarios: Sequence[str], everything: pl.DataFrame
) -> list[str]:
    users = everything.filter(pl.col("model") == models[0], pl.col("seed") == 0)
    counts = dict(users.group_by("scenario").len().iter_rows())
    columns = [*scenarios, "macro"]
    value = {
        (model, metric, scenario): (mean, sd, num)
        for model, metric, scenario, num, mean, sd in cells.iter_rows()
    }
    lines = []
    for metric in ("recall_50", "recall_100", "hits_50", "hits_100"):
        title = metric.replace("_", "@").capitalize()
        heads = [f"{s} ({counts[s]:,} users)" if s in counts else s for s in columns]
        lines += [f"**{title}, percent**", "", f"| model | {' | '.join(heads)} |"]
        lines.append("|---|" + "---:|" * len(columns))
        for model in models:
            shown = [_mean_sd(*value[model, metric, scenario]) for scenario in columns]
            lines.append(f"| {model.replace('_', ' ')} | {' | '.join(shown)} |")
        lines.append("")
    return lines


def _difference_table(everything: pl.DataFrame, recipe: str, scenarios: Sequence[str]) -> list[str]:
    keys = ["scenario", "user_id", "new_user", "history_length", "cold_items", "num_relevant"]
    metrics = [c for c in everything.columns if c.startswith(("recall_", "hits_"))]
    averaged = everything.group_by("model", *keys, maintain_order=True).agg(pl.col(metrics).mean())
    wanted = averaged.filter(pl.col("model").is_in([recipe, *BASELINES])).with_columns(
        pl.col("model").replace(recipe, "candidate")
    )
    ordered = wanted.sort("model", "scenario", "user_id")
    summary = summarise(ordered, ks=CONFIG.ks, segment_columns=(), index_recall={})
    columns = [*scenarios, "macro"]
    lines = [
        f"**`{recipe}` minus baseline, Recall@50, percentage points with 95 % intervals**",
        "",
        f"| baseline | {' | '.join(columns)} | ratio of macros |",
        "|---|" + "---:|" * (len(columns) + 1),
    ]
    for baseline in BASELINES:
        cells = summary["differences"][baseline]
        shown = [
            f"{100 * cells[c]['delta']:+.2f} [{100 * cells[c]['low']:+.2f}, "
            f"{100 * cells[c]['high']:+.2f}]"
            for c in columns
        ]
        ratio = 1 + cells["macro"]["relative"]
        lines.append(f"| {baseline.replace('_', ' ')} | {' | '.join(shown)} | {ratio:.2f} |")
    return lines


def _cost_table(trained: pl.DataFrame, recipes: Sequence[str]) -> list[str]:
    runs = trained.unique(["model", "seed"], maintain_order=True)
    lines = [
        "| recipe | seeds | best epochs | CPU seconds per training, mean |",
        "|---|---|---|---|",
    ]
    for recipe in recipes:
        mine = runs.filter(pl.col("model") == recipe).sort("seed")
        epochs = ", ".join(str(epoch) for epoch in mine["best_epoch"])
        cost = np.asarray(mine["train_cpu_s"].to_numpy()).mean()
        lines.append(f"| {recipe} | {len(mine)} | {epochs} | {cost:,.0f} |")
    return lines


def _mean_sd(mean: float, sd: float, num: int) -> str:
    return f"{100 * mean:.2f} ± {100 * sd:.2f}" if num > 1 else f"{100 * mean:.2f}"


def _scores(work: Path, recipe: str, seed: int) -> Path:
    return work / f"{recipe}-{seed}.parquet"


if __name__ == "__main__":
    main()
