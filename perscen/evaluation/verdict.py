"""A verdict is data: what the gate decided about one candidate, on what numbers, and why."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from perscen.errors import ArtifactError
from perscen.manifests import Record

VERDICT_NAME: Final = "verdict.json"
WHOLE_RELEASE: Final = "release"
"""Stands for the scenario in findings about all of them."""


class Outcome(StrEnum):
    """What one gate says of one scenario."""

    PASS = "PASS"  # noqa: S105 - no password
    """Not worse than the margin, with confidence."""
    WATCH = "WATCH"
    """Nothing wrong with the candidate, but somebody should know."""
    INSUFFICIENT = "INSUFFICIENT"
    """The data cannot tell; the policy decides."""
    FAIL = "FAIL"
    """A regression or a broken rule that can be seen."""


class Policy(StrEnum):
    """What follows from an INSUFFICIENT outcome."""

    HOLD = "hold"
    """Keep the champion: the point estimate is beyond the margin, only the proof is missing."""
    SHIP_AND_WATCH = "ship_and_watch"
    """Ship, flagged."""


class Decision(StrEnum):
    """Whether the candidate may be published."""

    PROMOTE = "promote"
    REFUSE = "refuse"


class Comparison(Record):
    """The candidate against one other model on the same users of one scenario; fractions."""

    baseline: str
    """Model compared with, by its name in the scores."""
    num_users: int
    num_differing: int
    """Users whose recall differs between the two models."""
    candidate_recall: float
    baseline_recall: float
    difference: float
    """Mean over users of candidate minus baseline."""
    low: float
    high: float
    """One-sided bounds of the difference, each at level 1 - alpha."""
    margin: float
    """Loss that is still tolerated, as a positive number."""
    detectable_effect: float
    """Smallest loss found with the wanted power: the minimum detectable effect."""
    users_needed: int | None
    """Users with whom the detectable effect would be the margin; None when no number would do."""


class Finding(Record):
    """What one gate found, with the number it looked at and the number it asked for."""

    gate: str
    scenario: str | None
    """None when the finding is about the whole release."""
    outcome: Outcome
    value: float | None = None
    threshold: float | None = None
    message: str
    policy: Policy | None = None
    """Given exactly when the outcome is INSUFFICIENT."""
    comparison: Comparison | None = None

    @property
    def blocks(self) -> bool:
        """Whether the candidate must not be published."""
        return self.outcome is Outcome.FAIL or (
            self.outcome is Outcome.INSUFFICIENT and self.policy is not Policy.SHIP_AND_WATCH
        )


class ScenarioVerdict(Record):
    """One scenario at a glance; ``None`` where a number is missing."""

    scenario: str
    num_users: int
    candidate_recall: float | None
    champion_recall: float | None
    popularity_recall: float | None
    compared_with: Literal["champion", "scenario_popularity"]
    """What the difference is taken to: popularity when there is no champion."""
    difference: float | None
    low: float | None
    high: float | None
    margin: float | None
    detectable_effect: float | None
    users_needed: int | None
    outcome: Outcome
    """The gravest of the scenario's findings."""
    policy: Policy | None
    """Applied to the INSUFFICIENT findings; ``hold`` when any of them holds."""
    reasons: tuple[str, ...]
    """Every finding that is not a PASS, in sentences."""


class Verdict(Record):
    """The decision on one model with its indexes."""

    decision: Decision
    logical_date: date
    model_digest: str
    indexes_digest: str
    champion_bundle_id: str | None
    """The release compared with; None for a first release, which floors and baselines decide."""
    k: int
    alpha: float
    power: float
    scenarios: tuple[ScenarioVerdict, ...]
    findings: tuple[Finding, ...]
    summary: str

    @property
    def reasons_by_scenario(self) -> dict[str, tuple[str, ...]]:
        """Why the candidate is refused: messages of the blocking findings, per scenario."""
        reasons: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.blocks:
                reasons.setdefault(finding.scenario or WHOLE_RELEASE, []).append(finding.message)
        return {scenario: tuple(why) for scenario, why in reasons.items()}


def write_verdict(verdict: Verdict, directory: Path) -> None:
    """Write ``verdict.json``."""
    (directory / VERDICT_NAME).write_text(
        verdict.model_dump_json(indent=2) + "\n", encoding="utf-8"
    )


def read_verdict(directory: Path) -> Verdict:
    """Return the verdict in a directory.

    Raises:
        ArtifactError: There is none, or it is not a verdict.
    """
    path = directory / VERDICT_NAME
    try:
        return Verdict.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"there is no {path}", hint="run `gate` first") from None
    except ValidationError as exc:
        raise ArtifactError(f"{path} is not a verdict: {exc}", hint="run `gate` again") from exc
