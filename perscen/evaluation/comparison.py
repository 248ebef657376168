"""The candidate against another model in each scenario: difference, bounds, margin, outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from perscen.config import GateConfig
from perscen.evaluation.evidence import Evidence
from perscen.evaluation.statistics import (
    Group,
    interval,
    minimum_detectable_effect,
    resample_means,
    users_needed,
)
from perscen.evaluation.verdict import Comparison, Outcome, Policy

_ROUNDING: Final = 1e-12


def compare(evidence: Evidence, baseline: str, config: GateConfig) -> Mapping[str, Comparison]:
    """Return the paired comparison with ``baseline`` of every scenario that has scores of both.

    All scenarios are resampled together, so that a user has one weight in all of them.
    """
    pairs = {
        name: (scores.user_U, scores.recall["candidate"], scores.recall[baseline])
        for name, scores in evidence.scenarios.items()
        if "candidate" in scores.recall and baseline in scores.recall
    }
    if not pairs:
        return {}
    groups = [Group(users, (mine - other)[:, None]) for users, mine, other in pairs.values()]
    means = resample_means(
        groups, num_users=evidence.num_users, resamples=config.resamples, seed=config.seed
    )
    comparisons = {}
    for (name, (_, mine_U, other_U)), means_R1 in zip(pairs.items(), means, strict=True):
        difference_U = mine_U - other_U
        bounds = interval(difference_U, means_R1[:, 0], alpha=config.alpha)
        level = float(other_U.mean())
        margin = max(config.absolute_margin, config.relative_margin * level)
        effect = minimum_detectable_effect(
            bounds.standard_error, alpha=config.alpha, power=config.power
        )
        comparisons[name] = Comparison(
            baseline=baseline,
            num_users=len(difference_U),
            num_differing=int(np.count_nonzero(difference_U)),
            candidate_recall=float(mine_U.mean()),
            baseline_recall=level,
            difference=bounds.mean,
            low=bounds.low,
            high=bounds.high,
            margin=margin,
            detectable_effect=effect,
            users_needed=users_needed(len(difference_U), effect=effect, margin=margin),
        )
    return comparisons


def outcome_of(comparison: Comparison, config: GateConfig) -> Outcome:
    """Return what the comparison shows (docs/architecture/gates.md).

    With fewer than ``config.min_differing_users`` users scored differently by the two models, the
    bounds are far too narrow to be believed: the outcome is INSUFFICIENT by rule.
    """
    if comparison.num_differing < config.min_differing_users:
        return Outcome.INSUFFICIENT
    if comparison.low > -comparison.margin:
        return Outcome.PASS
    if comparison.high < 0 and _loses_the_margin(comparison):
        return Outcome.FAIL
    return Outcome.INSUFFICIENT


def policy_of(comparison: Comparison) -> Policy:
    """Return what follows when the data cannot tell: a loss of the margin is not shipped."""
    return Policy.HOLD if _loses_the_margin(comparison) else Policy.SHIP_AND_WATCH


def _loses_the_margin(comparison: Comparison) -> bool:
    # A loss of exactly the margin must not slip through by the last bit of a float; and an equal
    # model has lost nothing, even where the margin is 0.
    return comparison.difference < 0 and comparison.difference <= -comparison.margin + _ROUNDING


def describe(comparison: Comparison, outcome: Outcome, config: GateConfig) -> str:
    """Return the comparison as a sentence: recalls in percent, differences in points of it."""
    c, baseline = comparison, comparison.baseline.replace("_", " ")
    facts = (
        f"recall@{config.k} {c.candidate_recall:.2%} against {c.baseline_recall:.2%} of the "
        f"{baseline}, difference {100 * c.difference:+.2f} [{100 * c.low:+.2f}, "
        f"{100 * c.high:+.2f}] points over {c.num_users:,} users, margin {100 * c.margin:.2f}"
    )
    if outcome is Outcome.PASS:
        return f"not worse than the {baseline} by more than the margin: {facts}"
    if outcome is Outcome.FAIL:
        return f"worse than the {baseline}: {facts}"
    if c.num_differing < config.min_differing_users:
        why = (
            f"only {c.num_differing:,} users are scored differently, "
            f"{config.min_differing_users} are needed"
        )
    elif c.users_needed is None:
        why = "the margin is 0"
    else:
        why = (
            f"a loss under {100 * c.detectable_effect:.2f} points cannot be seen, the margin "
            f"would need {c.users_needed:,} users"
        )
    follows = {
        Policy.HOLD: "the loss reaches the margin, so it is not shipped",
        Policy.SHIP_AND_WATCH: "the loss, if any, is within the margin, so it ships, watched",
    }[policy_of(c)]
    return (
        f"the data cannot tell whether it is worse than the {baseline} ({why}): {facts}; {follows}"
    )
