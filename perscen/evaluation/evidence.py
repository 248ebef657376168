"""Everything the gates may look at, read from the artifacts once and checked to belong to one run.

Letters: U users of one scenario.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perscen.errors import ArtifactError, ConfigError
from perscen.manifests import CleanLogManifest, IndexesManifest, ModelManifest, ScoresManifest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScenarioScores:
    """One scenario's recall at the gate's K, the same users in the same order for every model.

    Attributes:
        user_U: Each user's position among all evaluated users of the run.
        recall: Recall ``[U]`` by model, fractions.
    """

    user_U: NDArray[np.int64]
    recall: Mapping[str, Floats]


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        num_users: Evaluated users over all scenarios, each counted once.
        scenarios: Scores per scenario; one that should be here and is not is refused by the gates.
        index_recall: Share of the exact top K each scenario's index returned for the test queries.
    """

    logical_date: date
    num_users: int
    scenarios: Mapping[str, ScenarioScores]
    index_recall: Mapping[str, float]
    scores: ScoresManifest
    model: ModelManifest
    indexes: IndexesManifest
    clean_log: CleanLogManifest

    @property
    def expected_scenarios(self) -> tuple[str, ...]:
        """Every scenario that ships or was scored, each once: none of them may lack evidence.

        In the order of the scores, which is that of the splits: by falling click volume.
        """
        named = (
            *self.index_recall,
            *self.indexes.indexes,
            *self.scores.num_users,
            *self.scenarios,
            *self.model.valid_recall,
        )
        return tuple(dict.fromkeys(named))

    @property
    def has_champion(self) -> bool:
        """Whether there is a release to compare with."""
        return self.scores.champion_bundle_id is not None


def read_evidence(
    scores_directory: Path,
    *,
    k: int,
    scores: ScoresManifest,
    model: ModelManifest,
    indexes: IndexesManifest,
    clean_log: CleanLogManifest,
) -> Evidence:
    """Return the evidence in a scores artifact and the manifests of what it judges.

    Raises:
        ConfigError: Recall at ``k`` was not measured.
        ArtifactError: The scores cannot be read, or a scenario's models were not scored on the same
            users.
    """
    if k not in scores.ks:
        measured = ", ".join(str(known) for known in scores.ks)
        raise ConfigError(
            f"gate.k is {k}, but evaluate measured recall at {measured}",
            hint="set gate.k to one of evaluate.ks",
        )
    frame, summary = _read(scores_directory, k=k)
    users = frame["user_id"].unique(maintain_order=True)
    place = pl.DataFrame({"user_id": users, "place": np.arange(len(users), dtype=np.int64)})
    frame = frame.join(place, on="user_id", maintain_order="left")
    return Evidence(
        logical_date=scores.logical_date,
        num_users=len(users),
        scenarios={
            str(name): _scenario(str(name), part, k=k)
            for (name,), part in frame.group_by("scenario", maintain_order=True)
        },
        index_recall=summary["index_recall"],
        scores=scores,
        model=model,
        indexes=indexes,
        clean_log=clean_log,
    )


def _read(directory: Path, *, k: int) -> tuple[pl.DataFrame, dict[str, Any]]:
    columns = ["scenario", "user_id", "model", f"recall_{k}"]
    try:
        frame = pl.read_parquet(directory / "per_user.parquet", columns=columns)
        summary: dict[str, Any] = json.loads((directory / "summary.json").read_text("utf-8"))
    except (OSError, ValueError, pl.exceptions.PolarsError) as exc:
        raise ArtifactError(
            f"the scores in {directory} cannot be read: {exc}", hint="run `evaluate` again"
        ) from exc
    return frame, summary


def _scenario(name: str, frame: pl.DataFrame, *, k: int) -> ScenarioScores:
    recall: dict[str, Floats] = {}
    user_U: NDArray[np.int64] | None = None
    for (model,), part in frame.sort("place").group_by("model", maintain_order=True):
        mine_U = part["place"].to_numpy()
        if user_U is not None and not np.array_equal(user_U, mine_U):
            raise ArtifactError(
                f"scenario {name!r}: {model} was scored on {len(mine_U):,} users that are not the "
                f"{len(user_U):,} of the other models; only the same users can be compared",
                hint="run `evaluate` again",
            )
        user_U = mine_U
        recall[str(model)] = part[f"recall_{k}"].to_numpy()
    assert user_U is not None  # a group has rows
    if len(np.unique(user_U)) != len(user_U):
        raise ArtifactError(
            f"scenario {name!r} holds a user twice for one model", hint="run `evaluate` again"
        )
    return ScenarioScores(user_U, recall)
