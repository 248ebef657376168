"""How one run is made: trained or not, then scored by the paper's protocol.

Letters: Q queries, V items, G width.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Splits
from perscen.errors import ArtifactError
from perscen.evaluation.baselines import Ranker
from perscen.evaluation.evaluate import score_all
from perscen.evaluation.rankers import ModelRanker, Search
from perscen.experiments.rankers import RANKERS, check_ranker
from perscen.experiments.runs import Run, RunFacts, Work
from perscen.models.families import make_model
from perscen.models.two_tower import TwoTower
from perscen.retrieval.exact import catalogue_vectors, exact_top_k, query_vectors
from perscen.seeding import seed_torch
from perscen.training.loop import train
from perscen.training.records import EpochRecord
from perscen.training.validation import Validator


@dataclass(frozen=True)
class PinnedSplits:
    """A splits artifact that has to stay what it was when the comparison began.

    Attributes:
        directory: Where it lies.
        manifest_digest: What its manifest said then.
    """

    directory: Path
    manifest_digest: str

    def check(self) -> None:
        """Check that the artifact is still the same one.

        An artifact is replaced as a whole, so its manifest alone tells.

        Raises:
            ArtifactError: It is another one, or gone.
        """
        hint = "put those splits back to go on, or compare on the ones that are there now"
        try:
            found = json.loads((self.directory / "manifest.json").read_bytes())["digest"]
        except (OSError, ValueError, LookupError) as exc:
            raise ArtifactError(
                f"{self.directory} has no manifest any more; its digest was "
                f"{self.manifest_digest[:12]} when the comparison began",
                hint=hint,
            ) from exc
        if found != self.manifest_digest:
            raise ArtifactError(
                f"{self.directory} was replaced while the comparison ran: its digest is "
                f"{found[:12]}, it was {self.manifest_digest[:12]} when the comparison began",
                hint=hint,
            )


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
    pinned: PinnedSplits,
    work: Work,
    *,
    revision: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> RunFacts:
    """Train and score a run, keep what came out, and return what is known of it.

    Every user of the test window counts, recall is per scenario, and search is exact. Nothing is
    chosen on the test window: the epoch that is kept is the best on the validation window.

    Args:
        run: What to make.
        pinned: The splits it is made on.
        work: Where the result is kept.
        revision: Of the code, for the record.
        tell: Told what is being done, such as ``epoch 3`` or ``scoring``.

    Raises:
        ConfigError: A setting does not fit the data.
        ArtifactError: The splits are no longer those that the comparison began with.
        TrainingDiverged: The loss is not finite.
        StorageFull: There is no room for the result.
    """
    pinned.check()
    splits = Splits.open(pinned.directory)
    facts = RunFacts(
        row=run.row.name,
        seed=run.seed,
        settings=run.settings.tree(),
        splits_digest=work.splits_digest,
        revision=revision,
    )
    if run.settings.model is None or run.settings.train is None:
        tell("scoring")
        ranker: Ranker = RANKERS[run.row.name](splits, run.settings.evaluate, run.seed)
    else:
        seed_torch(run.seed, "init")
        model = make_model(splits.schema, run.settings.model)
        model.start_from(splits)
        config = run.settings.train.model_copy(update={"seed": run.seed, "num_threads": 1})
        before = time.process_time()
        trained = train(model, splits, config, watchers=[_EpochTeller(tell)])
        facts = facts.model_copy(
            update={
                "train_cpu_s": round(time.process_time() - before, 1),
                "best_epoch": trained.best.epoch,
                "num_parameters": sum(weights.numel() for weights in model.parameters()),
                "epochs": trained.epochs,
            }
        )
        tell("scoring")
        ranker = exact_ranker(model, splits)
    scores = score_all({run.row.name: ranker}, splits, config=run.settings.evaluate)
    pinned.check()  # the work directory is that of the splits the comparison began with
    work.keep(run, scores, facts)
    return facts


class _EpochTeller:
    """Tells which epoch has begun."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:  # noqa: ARG002
        """Tell of an epoch with its first step."""
        if step == 1:
            self._tell(f"epoch {epoch}" if epoch else "pre-training")

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        """Say nothing: the pre-training is told as one."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Say nothing: the next epoch, or what comes after, is told of as it begins."""


def exact_ranker(model: TwoTower, splits: Splits) -> ModelRanker:
    """Return a trained model as a ranker of the test queries, by exact search."""
    vectors_QG = query_vectors(model, UserSource(splits), splits.test, splits.test_slices)

    def search_of(scenario: int) -> Search:
        items_VG = catalogue_vectors(model, ItemSource(splits.items), scenarios=[scenario])[0]
        return lambda vectors, k: exact_top_k(vectors, items_VG, k)[1].numpy()

    return ModelRanker(vectors_QG, splits.test, search_of)
