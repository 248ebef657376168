"""Every gate on evidence built to pass it and to fail it, and the verdict they make together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from perscen.config import GateConfig
from perscen.evaluation import gates
from perscen.evaluation.comparison import compare, outcome_of, policy_of
from perscen.evaluation.evidence import Evidence, ScenarioScores
from perscen.evaluation.judge import judge
from perscen.evaluation.verdict import Decision, Finding, Outcome, Policy, Verdict
from perscen.manifests import (
    CleanLogManifest,
    IndexesManifest,
    IndexRecord,
    ModelManifest,
    ScoresManifest,
)

CONFIG = GateConfig(resamples=2_000)
DAY = date(2022, 5, 5)


def hit_or_miss(hits: int, num_users: int, *, shift: int = 0) -> np.ndarray:
    """Recall of users of whom ``hits`` have 1, beginning at user ``shift``, and the others 0."""
    return np.roll((np.arange(num_users) < hits).astype(float), shift)


def evidence(
    scenarios: Mapping[str, Mapping[str, np.ndarray]] | None = None, **changes: Any
) -> Evidence:
    """Return evidence in which nothing is wrong, but for the changes."""
    if scenarios is None:
        good = {
            "candidate": hit_or_miss(500, 1_000, shift=20),
            "champion": hit_or_miss(500, 1_000),
            "scenario_popularity": hit_or_miss(300, 1_000),
        }
        scenarios = {"1": good, "4": good}
    stamp = {
        "logical_date": DAY,
        "code_version": "c",
        "config_digest": "c",
        "parents": {"splits": "splits"},
    }
    sizes = {name: len(next(iter(recall.values()))) for name, recall in scenarios.items()}
    whole: dict[str, Any] = {
        "logical_date": DAY,
        "num_users": max(sizes.values(), default=0),
        "scenarios": {
            name: ScenarioScores(np.arange(sizes[name]), recall)
            for name, recall in scenarios.items()
        },
        "index_recall": dict.fromkeys(scenarios, 1.0),
        "scores": ScoresManifest(
            **stamp,
            step="evaluate",
            digest="scores",
            model_digest="model",
            indexes_digest="indexes",
            champion_bundle_id="champion",
            ks=[50],
            num_users=sizes,
        ),
        "model": ModelManifest(
            **stamp,
            step="train",
            digest="model",
            family="perscen",
            recipe_digest="r",
            fingerprint="space",
            num_parameters=1,
            best_epoch=1,
            epochs=1,
            valid_recall=dict.fromkeys(scenarios, 0.5),
            code_usage=dict.fromkeys(scenarios, 0.9),
            code_queries=dict.fromkeys(scenarios, 20),
            num_codes=10,
        ),
        "indexes": IndexesManifest(
            **stamp,
            step="index",
            digest="indexes",
            model_digest="model",
            fingerprint="space",
            dim=4,
            indexes={
                name: IndexRecord(kind="flat", parameters={}, num_items=9, recall=1.0)
                for name in scenarios
            },
        ),
        "clean_log": CleanLogManifest(
            **stamp,
            step="validate",
            source="synthetic",
            rows_in=1_000,
            rows_good=990,
            rows_quarantined=10,
            rows_dropped=0,
            rule_counts={},
            days=[DAY],
            excluded_days={},
            utc_offset_hours=8,
        ),
    }
    for name, change in changes.items():
        whole[name] = (
            whole[name].model_copy(update=change) if hasattr(whole[name], "model_copy") else change
        )
    return Evidence(**whole)


def outcomes(findings: list[Finding]) -> set[Outcome]:
    return {finding.outcome for finding in findings}


def test_good_evidence_is_promoted_with_every_number():
    verdict = judge(evidence(), CONFIG)
    assert verdict.decision is Decision.PROMOTE
    assert verdict.reasons_by_scenario == {}
    assert outcomes(list(verdict.findings)) == {Outcome.PASS}
    scenario = verdict.scenarios[0]
    assert (scenario.scenario, scenario.num_users, scenario.compared_with) == (
        "1",
        1_000,
        "champion",
    )
    assert (scenario.candidate_recall, scenario.champion_recall) == (0.5, 0.5)
    assert (scenario.popularity_recall, scenario.margin) == (0.3, 0.05)
    assert scenario.low < scenario.difference == 0.0 < scenario.high
    assert scenario.outcome is Outcome.PASS
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


# Candidate's and champion's hits, shift, users, and what follows; the margin is 10 %.
TABLE = {
    "equal, many users": (500, 500, 20, 1_000, Outcome.PASS, None),
    "better": (600, 500, 0, 1_000, Outcome.PASS, None),
    "a loss within the margin, seen": (480, 500, 0, 1_000, Outcome.PASS, None),
    "a loss of twice the margin": (400, 500, 0, 1_000, Outcome.FAIL, None),
    "a loss of the margin, not sure": (45, 50, 25, 1_000, Outcome.INSUFFICIENT, Policy.HOLD),
    "no loss, not sure": (50, 50, 25, 1_000, Outcome.INSUFFICIENT, Policy.SHIP_AND_WATCH),
    "too few users differ": (0, 19, 0, 1_000, Outcome.INSUFFICIENT, Policy.HOLD),
    "just enough users differ": (0, 20, 0, 1_000, Outcome.FAIL, None),
    "the same lists": (500, 500, 0, 1_000, Outcome.INSUFFICIENT, Policy.SHIP_AND_WATCH),
    "nothing found by either": (0, 0, 0, 1_000, Outcome.INSUFFICIENT, Policy.SHIP_AND_WATCH),
    "a clear loss, few users": (5, 35, 0, 40, Outcome.FAIL, None),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_regression_gate_has_three_outcomes_and_a_policy(case: str):
    mine, theirs, shift, num_users, outcome, policy = TABLE[case]
    scores = {
        "candidate": hit_or_miss(mine, num_users, shift=shift),
        "champion": hit_or_miss(theirs, num_users),
        "scenario_popularity": np.zeros(num_users),
    }
    (finding,) = gates.regression(evidence({"1": scores}), CONFIG)
    assert (finding.outcome, finding.policy) == (outcome, policy)
    assert finding.blocks is (outcome is Outcome.FAIL or policy is Policy.HOLD)
    assert finding.threshold == pytest.approx(-0.1 * theirs / num_users)


def test_an_insufficient_finding_says_how_many_users_it_would_take():
    (finding,) = gates.regression(
        evidence(
            {
                "1": {
                    "candidate": hit_or_miss(50, 1_000, shift=25),
                    "champion": hit_or_miss(50, 1_000),
                }
            }
        ),
        CONFIG,
    )
    comparison = finding.comparison
    assert comparison is not None
    assert comparison.detectable_effect == pytest.approx(2.486 * np.sqrt(0.05 / 1_000), rel=1e-2)
    assert comparison.users_needed == pytest.approx(
        1_000 * (comparison.detectable_effect / 0.005) ** 2, abs=1
    )
    assert f"{comparison.users_needed:,} users" in finding.message


def test_the_absolute_margin_widens_a_small_one():
    scores = {"candidate": hit_or_miss(460, 1_000), "champion": hit_or_miss(500, 1_000)}
    built = evidence({"1": scores})
    strict, wide = (
        GateConfig(resamples=1_000, relative_margin=0, absolute_margin=m) for m in (0, 0.1)
    )
    assert outcome_of(compare(built, "champion", strict)["1"], strict) is Outcome.FAIL
    assert outcome_of(compare(built, "champion", wide)["1"], wide) is Outcome.PASS


def test_without_users_that_differ_a_zero_margin_does_not_hold_an_equal_candidate():
    built = evidence({"1": {"candidate": np.zeros(50), "champion": np.zeros(50)}})
    assert policy_of(compare(built, "champion", CONFIG)["1"]) is Policy.SHIP_AND_WATCH


def test_a_first_release_is_judged_by_floors_and_baselines_and_says_so():
    scores = {
        "candidate": hit_or_miss(500, 1_000),
        "scenario_popularity": hit_or_miss(300, 1_000),
    }
    first = evidence({"1": scores}, scores={"champion_bundle_id": None})
    verdict = judge(first, CONFIG)
    assert verdict.decision is Decision.PROMOTE
    assert "without a champion" in verdict.summary
    assert verdict.scenarios[0].compared_with == "scenario_popularity"
    assert verdict.scenarios[0].difference == pytest.approx(0.2)
    assert [f.message for f in verdict.findings if f.gate == "regression"] == [
        "there is no champion to compare with: floors and baselines decide alone"
    ]


def test_a_model_worse_than_popularity_is_refused():
    scores = {
        "candidate": hit_or_miss(200, 1_000),
        "champion": hit_or_miss(190, 1_000),
        "scenario_popularity": hit_or_miss(300, 1_000),
    }
    assert outcomes(gates.popularity(evidence({"1": scores}), CONFIG)) == {Outcome.FAIL}
    assert outcomes(gates.popularity(evidence(), CONFIG)) == {Outcome.PASS}


def test_a_recall_under_the_absolute_floor_is_refused():
    assert outcomes(gates.floor(evidence(), GateConfig(floor=0.5))) == {Outcome.PASS}
    assert outcomes(gates.floor(evidence(), GateConfig(floor=0.51))) == {Outcome.FAIL}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"1": 0.3, "4": 0.9}, {"1": Outcome.PASS, "4": Outcome.PASS}),
        ({"1": 0.9, "4": 0.29}, {"1": Outcome.PASS, "4": Outcome.FAIL}),
        ({"1": 0.9}, {"1": Outcome.PASS, "4": Outcome.FAIL}),
        ({}, {}),
    ],
)
def test_a_codebook_hardly_used_or_not_measured_is_refused(usage, expected):
    findings = gates.codebook(evidence(model={"code_usage": usage}), CONFIG)
    assert {finding.scenario: finding.outcome for finding in findings} == expected


def test_nothing_is_concluded_of_a_codebook_that_few_queries_could_use():
    few = {"code_usage": {"1": 0.2, "4": 0.3}, "code_queries": {"1": 19, "4": 3}}
    one, other = gates.codebook(evidence(model=few), CONFIG)
    assert (one.outcome, one.policy) == (Outcome.INSUFFICIENT, Policy.SHIP_AND_WATCH)
    assert not one.blocks
    assert "only 19 validation queries have clicks in the scenario, 20 are needed" in one.message
    assert other.outcome is Outcome.PASS, "three queries on three codes are all one can ask"


def test_an_index_that_loses_items_on_test_or_validation_queries_is_refused():
    assert outcomes(gates.index(evidence(), CONFIG)) == {Outcome.PASS}
    on_test = gates.index(evidence(index_recall={"1": 0.94, "4": 1.0}), CONFIG)
    assert [finding.outcome for finding in on_test] == [Outcome.FAIL, Outcome.PASS]
    weak = IndexRecord(kind="ivf", parameters={"nlist": 4, "nprobe": 1}, num_items=9, recall=0.5)
    strong = weak.model_copy(update={"recall": 0.99})
    on_valid = gates.index(evidence(indexes={"indexes": {"1": strong, "4": weak}}), CONFIG)
    assert [finding.outcome for finding in on_valid] == [Outcome.PASS, Outcome.FAIL]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("scores", {"model_digest": "another"}),
        ("scores", {"indexes_digest": "another"}),
        ("indexes", {"model_digest": "another"}),
        ("indexes", {"fingerprint": "another"}),
        ("scores", {"parents": {"splits": "another"}}),
        ("model", {"parents": {}}),
    ],
)
def test_artifacts_that_do_not_belong_together_are_refused(part: str, change: dict[str, Any]):
    assert outcomes(gates.lineage(evidence(), CONFIG)) == {Outcome.PASS}
    assert Outcome.FAIL in outcomes(gates.lineage(evidence(**{part: change}), CONFIG))


def test_the_data_gate_mentions_but_never_blocks():
    assert outcomes(gates.data(evidence(), CONFIG)) == {Outcome.PASS}
    noisy = evidence(
        clean_log={"rows_quarantined": 90, "excluded_days": {date(2022, 5, 1): "too few rows"}}
    )
    findings = gates.data(noisy, CONFIG)
    assert outcomes(findings) == {Outcome.WATCH}
    assert "2022-05-01 was left out of the window: too few rows" in {f.message for f in findings}
    assert judge(noisy, CONFIG).decision is Decision.PROMOTE


def without(built: Evidence, scenario: str, model: str) -> Evidence:
    scores = built.scenarios[scenario]
    left = {name: recall for name, recall in scores.recall.items() if name != model}
    return replace(built, scenarios=built.scenarios | {scenario: replace(scores, recall=left)})


FAIL_CLOSED = {
    "no scores of a scenario": lambda e: replace(e, scenarios={"1": e.scenarios["1"]}),
    "no champion scores": lambda e: without(e, "4", "champion"),
    "no popularity scores": lambda e: without(e, "4", "scenario_popularity"),
    "no candidate scores": lambda e: without(e, "4", "candidate"),
    "no index": lambda e: replace(
        e, indexes=e.indexes.model_copy(update={"indexes": {"1": e.indexes.indexes["1"]}})
    ),
    "no index recall": lambda e: replace(e, index_recall={"1": 1.0}),
    "fewer users than promised": lambda e: replace(
        e, scores=e.scores.model_copy(update={"num_users": {"1": 1_000, "4": 1_001}})
    ),
}


@pytest.mark.parametrize("case", FAIL_CLOSED)
def test_missing_evidence_for_a_scenario_refuses_the_release(case: str):
    verdict = judge(FAIL_CLOSED[case](evidence()), CONFIG)
    assert verdict.decision is Decision.REFUSE
    assert list(verdict.reasons_by_scenario) == ["4"]
    by_name = {scenario.scenario: scenario for scenario in verdict.scenarios}
    assert (by_name["1"].outcome, by_name["4"].outcome) == (Outcome.PASS, Outcome.FAIL)


def test_no_scenario_at_all_is_refused():
    verdict = judge(evidence({}), CONFIG)
    assert verdict.decision is Decision.REFUSE
    assert "release" in verdict.reasons_by_scenario


def test_every_reason_is_given_at_once():
    scores = {
        "candidate": hit_or_miss(100, 1_000),
        "champion": hit_or_miss(500, 1_000),
        "scenario_popularity": hit_or_miss(300, 1_000),
    }
    built = evidence(
        {"1": scores, "4": scores},
        model={"code_usage": {"1": 0.1, "4": 0.9}},
        index_recall={"1": 0.1, "4": 1.0},
    )
    verdict = judge(built, GateConfig(resamples=1_000, floor=0.2))
    blocking = {(f.gate, f.scenario) for f in verdict.findings if f.blocks}
    shared = {(gate, name) for gate in ("floor", "popularity", "regression") for name in "14"}
    assert blocking == shared | {("codebook", "1"), ("index", "1")}
    assert len(verdict.reasons_by_scenario["1"]) == 5
    assert verdict.decision is Decision.REFUSE


def test_the_summary_names_the_places_that_block_in_the_grammar_of_their_number():
    scores = {"candidate": hit_or_miss(400, 1_000), "champion": hit_or_miss(500, 1_000)}
    scores["scenario_popularity"] = np.zeros(1_000)
    one = judge(evidence({"4": scores}), CONFIG).summary
    assert one.endswith("; 1 finding blocks it, in scenario 4")
    two = judge(evidence({"4": scores, "1": scores}, model={"digest": "other"}), CONFIG).summary
    assert two.endswith("findings block it, in scenarios 4, 1 and the whole release")


def test_scenarios_keep_the_order_of_the_scores_though_manifests_sort_them():
    good = evidence().scenarios["1"].recall
    built = evidence({"4": good, "1": good}, model={"valid_recall": {"1": 0.5, "4": 0.5}})
    sorted_by_name = dict(sorted(built.indexes.indexes.items()))
    built = replace(built, indexes=built.indexes.model_copy(update={"indexes": sorted_by_name}))
    assert [s.scenario for s in judge(built, CONFIG).scenarios] == ["4", "1"]


def test_a_hold_is_told_in_points_and_of_no_champion_where_there_is_none():
    scores = {
        "candidate": hit_or_miss(45, 1_000, shift=25),
        "scenario_popularity": hit_or_miss(50, 1_000),
    }
    (finding,) = gates.popularity(evidence({"1": scores}), CONFIG)
    assert "difference -0.50 [" in finding.message
    assert "] points over 1,000 users, margin 0.50" in finding.message
    assert finding.message.endswith("the loss reaches the margin, so it is not shipped")
    assert "champion" not in finding.message
