"""How one run is made: trained or not, then scored by the paper's protocol.

Letters: Q queries, V items, G width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Splits
from perscen.evaluation.baselines import Ranker
from perscen.evaluation.evaluate import score_all
from perscen.evaluation.rankers import ModelRanker, Search
from perscen.experiments.rankers import RANKERS, check_ranker
from perscen.experiments.runs import Run, RunFacts, Work
from perscen.models.families import make_model
from perscen.models.two_tower import TwoTower
from perscen.retrieval.exact import catalogue_vectors, exact_top_k, query_vectors
from perscen.seeding import seed_torch
from perscen.training.loop import Watcher, train
from perscen.training.validation import Validator


def check_run(run: Run, splits: Splits) -> None:
    """Check a run against the data as far as that goes without training.

    Raises:
        ConfigError: A setting or a ranker does not fit the data.
    """
    if run.settings.model is None or run.settings.train is None:
        check_ranker(run.row.name, splits)
        return
    make_model(splits.schema, run.settings.model)
    Validator(splits, k=run.settings.train.monitor_k, device=torch.device("cpu"))


def make_run(
    run: Run,
    splits_dir: Path,
    work: Work,
    *,
    revision: str | None = None,
    watchers: Sequence[Watcher] = (),
) -> RunFacts:
    """Train and score a run, keep what came out, and return what is known of it.

    Every user of the test window counts, recall is per scenario, and search is exact. Nothing is
    chosen on the test window: the epoch that is kept is the best on the validation window.

    Raises:
        ConfigError: A setting does not fit the data.
        TrainingDiverged: The loss is not finite.
        StorageFull: There is no room for the result.
    """
    splits = Splits.open(splits_dir)
    facts = RunFacts(
        row=run.row.name,
        seed=run.seed,
        settings=run.settings.tree(),
        splits_digest=work.splits_digest,
        revision=revision,
    )
    if run.settings.model is None or run.settings.train is None:
        ranker: Ranker = RANKERS[run.row.name](splits, run.settings.evaluate, run.seed)
    else:
        seed_torch(run.seed, "init")
        model = make_model(splits.schema, run.settings.model)
        model.start_from(splits)
        config = run.settings.train.model_copy(update={"seed": run.seed, "num_threads": 1})
        before = time.process_time()
        trained = train(model, splits, config, watchers=watchers)
        facts = facts.model_copy(
            update={
                "train_cpu_s": round(time.process_time() - before, 1),
                "best_epoch": trained.best.epoch,
                "num_parameters": sum(weights.numel() for weights in model.parameters()),
                "epochs": trained.epochs,
            }
        )
        ranker = exact_ranker(model, splits)
    scores = score_all({run.row.name: ranker}, splits, config=run.settings.evaluate)
    work.keep(run, scores, facts)
    return facts


def exact_ranker(model: TwoTower, splits: Splits) -> ModelRanker:
    """Return a trained model as a ranker of the test queries, by exact search."""
    vectors_QG = query_vectors(model, UserSource(splits), splits.test, splits.test_slices)

    def search_of(scenario: int) -> Search:
        items_VG = catalogue_vectors(model, ItemSource(splits.items), scenarios=[scenario])[0]
        return lambda vectors, k: exact_top_k(vectors, items_VG, k)[1].numpy()

    return ModelRanker(vectors_QG, splits.test, search_of)
