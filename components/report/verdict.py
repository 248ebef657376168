"""The first screen: the decision, why, and every scenario's difference against its margin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from components.report.page import (
    Cell,
    Column,
    Fact,
    IntervalBar,
    ScenarioRow,
    Table,
    VerdictView,
)
from components.report.words import between, count, percent, points, sentence, whole
from perscen.evaluation.verdict import (
    Decision,
    Finding,
    Outcome,
    Policy,
    ScenarioVerdict,
    Verdict,
)

_TONES: Final = {
    Outcome.PASS: "good",
    Outcome.WATCH: "warn",
    Outcome.INSUFFICIENT: "warn",
    Outcome.FAIL: "bad",
}
_POLICIES: Final = {
    Policy.HOLD: "Policy hold: without proof it is not released.",
    Policy.SHIP_AND_WATCH: "Policy ship_and_watch: no ground to hold it; flagged for the next run.",
}
_NAMES: Final = {"champion": "the champion", "scenario_popularity": "scenario popularity"}


def verdict_view(
    verdict: Verdict, *, scenarios: Sequence[str], facts: Sequence[Fact]
) -> VerdictView:
    """Return the first screen, scenarios in the order given; one the splits lack goes last."""
    promoted = verdict.decision is Decision.PROMOTE
    first = verdict.champion_bundle_id is None
    level = percent(1 - verdict.alpha, digits=0)
    place = {scenario: n for n, scenario in enumerate(scenarios)}
    ordered = sorted(verdict.scenarios, key=lambda s: place.get(s.scenario, len(place)))
    bars = interval_bars(ordered)
    return VerdictView(
        decision="Promote" if promoted else "Refuse",
        tone="good" if promoted else "bad",
        headline=_headline(promoted=promoted, first=first),
        why=tuple(
            sentence(text)
            for text in (
                verdict.summary,
                *(f.message for f in verdict.findings if _concerns_all(f)),
            )
        ),
        facts=tuple(facts),
        metric=f"Recall@{verdict.k} on the test window. Differences are candidate minus "
        f"{'scenario popularity, since there is no champion yet' if first else 'champion'}, over "
        f"the same users, in percentage points; each bound holds with {level} confidence.",
        rows=tuple(_row(s, bar) for s, bar in zip(ordered, bars, strict=True)),
        findings=_findings(verdict),
    )


def _headline(*, promoted: bool, first: bool) -> str:
    if promoted:
        return "The candidate may be released" + (" as the first champion" if first else "")
    return "The candidate is refused; " + (
        "nothing is released" if first else "the champion stays in place"
    )


def _concerns_all(finding: Finding) -> bool:
    return finding.scenario is None and finding.outcome is not Outcome.PASS


def _row(s: ScenarioVerdict, bar: IntervalBar | None) -> ScenarioRow:
    return ScenarioRow(
        scenario=s.scenario,
        users=whole(s.num_users),
        candidate=percent(s.candidate_recall),
        champion=percent(s.champion_recall),
        popularity=percent(s.popularity_recall),
        versus=f"against {_NAMES[s.compared_with]}",
        difference=points(s.difference),
        interval="" if s.low is None else f"({between(s.low, s.high)})",
        bar=bar,
        outcome=s.outcome.value,
        tone=_TONES[s.outcome],
        reasons=tuple(map(sentence, s.reasons)) or ("Every gate passed.",),
        policy=" ".join(filter(None, [_POLICIES[s.policy] if s.policy else "", _evidence(s)])),
    )


def _evidence(s: ScenarioVerdict) -> str:
    if s.margin is None or s.detectable_effect is None or s.outcome is Outcome.INSUFFICIENT:
        return ""  # an INSUFFICIENT finding says these numbers itself
    text = (
        f"Tolerated loss {_loss(s.margin)} points; with {count(s.num_users, 'user')} a loss of "
        f"{_loss(s.detectable_effect)} or more would be found."
    )
    if s.detectable_effect > s.margin and s.users_needed is not None:
        text += f" Seeing the tolerated loss takes {count(s.users_needed, 'user')}."
    return text


def _loss(share: float) -> str:
    return f"{share * 100:.2f}"


def interval_bars(scenarios: Sequence[ScenarioVerdict]) -> list[IntervalBar | None]:
    """Return a bar for each scenario, None where there is no interval; all share one scale."""
    ends = [0.0]
    for s in scenarios:
        ends += [v for v in (s.low, s.high, s.difference) if v is not None]
        ends += [-s.margin] if s.margin is not None else []
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    start, length = min(ends) - room, max(ends) - min(ends) + 2 * room

    def at(value: float) -> float:
        return round(100 * (value - start) / length, 2)

    return [_bar(s, at) for s in scenarios]


def _bar(s: ScenarioVerdict, at: Callable[[float], float]) -> IntervalBar | None:
    if s.difference is None or s.low is None or s.high is None:
        return None
    margin = "" if s.margin is None else f"; a loss of {_loss(s.margin)} is tolerated"
    return IntervalBar(
        zero=at(0.0),
        margin=None if s.margin is None else at(-s.margin),
        low=at(s.low),
        high=at(s.high),
        point=at(s.difference),
        tone=_TONES[s.outcome],
        label=f"Scenario {s.scenario}: difference {points(s.difference)} points, interval "
        f"{between(s.low, s.high)}{margin}.",
    )


def _findings(verdict: Verdict) -> Table:
    return Table(
        caption="Every finding of the gate",
        columns=tuple(
            Column(name, numeric=False) for name in ("Gate", "Scenario", "Outcome", "Finding")
        ),
        rows=tuple(
            (
                Cell(f.gate),
                Cell(f.scenario if f.scenario is not None else "all"),
                Cell(f.outcome.value, tone=_TONES[f.outcome]),
                Cell(sentence(f.message)),
            )
            for f in verdict.findings
        ),
    )
