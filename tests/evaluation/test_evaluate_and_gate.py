"""The steps evaluate and gate on real artifacts of a tiny model, with and without a champion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from components.steps import evaluate as evaluate_step
from components.steps import gate as gate_step
from components.store import write_manifest
from perscen.config import EvaluateConfig, GateConfig
from perscen.data.splits import Splits
from perscen.errors import ArtifactError, ConfigError
from perscen.evaluation.baselines import NOTHING
from perscen.evaluation.champion import ChampionRanker
from perscen.evaluation.evidence import read_evidence
from perscen.evaluation.verdict import read_verdict
from perscen.manifests import ChampionManifest, CleanLogManifest, ScoresManifest
from perscen.retrieval.bundle import Bundle, Lineage, open_bundle, write_bundle
from perscen.retrieval.raw_users import Click
from perscen.retrieval.retriever import Retriever
from perscen.schema import FIRST_ROW
from perscen.staging import staged
from tests.retrieval.world import World, make_world, stamp

pytestmark = pytest.mark.medium

KS = EvaluateConfig(ks=(5, 10))
GATE = GateConfig(k=5, resamples=500)


def release(world: World, directory: Path) -> Bundle:
    """Write the world's model and indexes as a bundle, without a registry."""
    model, indexes = world.open("model").manifest, world.open("indexes").manifest
    return write_bundle(
        directory,
        model=world.path("model"),
        indexes=world.path("indexes"),
        fingerprint=model.fingerprint,
        splits=Splits.open(world.path("splits")),
        lineage=Lineage(
            logical_date=world.day,
            splits_digest="s" * 64,
            model_digest=model.digest,
            indexes_digest=indexes.digest,
            verdict_digest="f" * 64,
            code_version="c" * 64,
            config_digest="d" * 64,
            previous_bundle_id=None,
        ),
        num_probes=3,
        include_users=True,
    )


def complete(world: World, champion: World | None) -> World:
    """Add the inputs that evaluate and gate need besides the model."""
    with staged(world.path("champion")) as scratch:
        bundle = release(champion, scratch / "bundle") if champion else None
        manifest = ChampionManifest(
            **stamp(world.day),
            name="perscen",
            version="1" if bundle else None,
            bundle_id=bundle.manifest.bundle_id if bundle else None,
            champion_date=world.day if bundle else None,
        )
        write_manifest(scratch, manifest)
    with staged(world.path("clean_log")) as scratch:
        log = CleanLogManifest(
            **stamp(world.day),
            source="synthetic",
            rows_in=100,
            rows_good=100,
            rows_quarantined=0,
            rows_dropped=0,
            rule_counts={},
            days=[world.day],
            excluded_days={},
            utc_offset_hours=8,
        )
        write_manifest(scratch, log)
    return world


def run_evaluate(world: World, config: EvaluateConfig = KS) -> ScoresManifest:
    with staged(world.path("scores")) as scratch:
        task = world.task(scratch, "model", "indexes", "splits", "champion")
        return write_manifest(scratch, evaluate_step.run(task, evaluate=config))


def run_gate(world: World, config: GateConfig = GATE) -> Any:
    with staged(world.path("verdict")) as scratch:
        task = world.task(scratch, "scores", "model", "indexes", "clean_log")
        return write_manifest(scratch, gate_step.run(task, gate=config))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world compared with a champion of another seed, up to its scores."""
    today = make_world(tmp_path_factory.mktemp("today"))
    yesterday = make_world(tmp_path_factory.mktemp("yesterday"), seed=1)
    run_evaluate(complete(today, yesterday))
    return today


@pytest.fixture
def own(evaluated: World, tmp_path: Path) -> World:
    """A copy that the test may spoil."""
    shutil.copytree(evaluated.root, tmp_path / "world")
    return World(tmp_path / "world", evaluated.day)


def per_user(world: World) -> pl.DataFrame:
    return pl.read_parquet(world.path("scores") / "per_user.parquet")


def read(world: World, name: str) -> Any:
    return json.loads((world.path("scores") / name).read_text())


def test_every_model_is_scored_on_the_same_users(evaluated: World):
    frame, test = per_user(evaluated), Splits.open(evaluated.path("splits")).test
    assert frame["model"].unique(maintain_order=True).to_list() == [
        "candidate",
        "candidate_exact",
        "champion",
        "segment_popularity",
        "scenario_popularity",
        "global_popularity",
        "random",
    ]
    facts = ["scenario", "user_id", "num_relevant", "new_user", "history_length", "cold_items"]
    first, *others = (part.select(facts) for part in frame.partition_by("model"))
    assert len(first) == len(test.user)
    assert all(other.equals(first) for other in others)
    scores = frame.filter(pl.col("recall_5") > pl.col("hits_10"))
    assert scores.is_empty()


def test_the_shipped_flat_index_finds_what_exact_search_finds(evaluated: World):
    frame = per_user(evaluated)
    through_index, exact = (
        frame.filter(pl.col("model") == name).drop("model")
        for name in ("candidate", "candidate_exact")
    )
    assert through_index.equals(exact)
    assert set(read(evaluated, "summary.json")["index_recall"].values()) == {1.0}


def test_metrics_and_summary_say_what_the_scores_say(evaluated: World):
    frame, metrics = per_user(evaluated), read(evaluated, "metrics.json")
    summary = read(evaluated, "summary.json")
    means: dict[str, dict[str, float]] = {}
    for (model, scenario), part in frame.group_by("model", "scenario"):
        mean = float(part["recall_5"].to_numpy().mean())
        assert metrics[model]["recall_5"][scenario] == pytest.approx(mean)
        level = summary["models"][model][scenario]
        assert level["recall_5"] == pytest.approx(mean)
        assert level["num_users"] == len(part)
        assert level["recall_5_low"] <= level["recall_5"] <= level["recall_5_high"]
        means.setdefault(model, {})[scenario] = mean
    for model, by_scenario in means.items():
        macro = np.mean(list(by_scenario.values()))
        assert metrics[model]["recall_5"]["macro"] == pytest.approx(macro)
    difference = summary["differences"]["champion"]["macro"]
    delta = metrics["candidate"]["recall_5"]["macro"] - metrics["champion"]["recall_5"]["macro"]
    assert difference["delta"] == pytest.approx(delta)
    assert difference["low"] is None  # too few users
    counted = {(row["slice"], row["scenario"], row["model"]): 0 for row in summary["slices"]}
    for row in summary["slices"]:
        counted[row["slice"], row["scenario"], row["model"]] += row["num_users"]
    assert {counted[key] == summary["models"][key[2]][key[1]]["num_users"] for key in counted} == {
        True
    }


def test_facts_about_users_are_counted_from_the_log(evaluated: World):
    splits = Splits.open(evaluated.path("splits"))
    frame = per_user(evaluated).filter(pl.col("model") == "random")
    facts = {(row["scenario"], row["user_id"]): row for row in frame.rows(named=True)}
    valid_from, test_from = 6 * 86_400_000, 8 * 86_400_000
    past, clicked = splits.histories, set(splits.train.item.tolist())
    for row, user in enumerate(splits.test.user):
        mine = slice(past.user_offsets[user], past.user_offsets[user + 1])
        times = past.times_ms[mine]
        bounds = slice(*splits.test.relevant_offsets[row : row + 2])
        mine = facts[f"s{splits.test.scenario[row]}", splits.test.user_id[row]]
        assert mine["history_length"] == (times < test_from).sum()
        assert mine["new_user"] == (not (times < valid_from).any())
        relevant = splits.test.relevant[bounds].tolist()
        assert mine["cold_items"] == sum(item not in clicked for item in relevant)


def test_the_same_inputs_give_the_same_digest(own: World):
    before = own.open("scores").manifest.digest
    assert run_evaluate(own).digest == before


def test_the_gate_writes_a_verdict_on_this_model_and_these_indexes(own: World):
    manifest = run_gate(own)
    verdict = read_verdict(own.path("verdict"))
    assert manifest.decision == verdict.decision.value
    assert manifest.model_digest == own.open("model").manifest.digest
    assert manifest.indexes_digest == own.open("indexes").manifest.digest
    assert verdict.champion_bundle_id == own.open("champion").manifest.bundle_id
    metrics = read(own, "metrics.json")
    for scenario in verdict.scenarios:
        name = scenario.scenario
        assert scenario.candidate_recall == pytest.approx(metrics["candidate"]["recall_5"][name])
        assert scenario.champion_recall == pytest.approx(metrics["champion"]["recall_5"][name])


def test_without_a_champion_nobody_is_called_champion(own: World):
    run_evaluate(complete(own, None))
    assert "champion" not in read(own, "metrics.json")
    run_gate(own)
    assert read_verdict(own.path("verdict")).champion_bundle_id is None


def test_indexes_of_another_model_are_refused(own: World, tmp_path: Path):
    other = make_world(tmp_path / "other", seed=7)
    shutil.rmtree(own.path("indexes"))
    shutil.copytree(other.path("indexes"), own.path("indexes"))
    with pytest.raises(ArtifactError, match=r"built from model .* is evaluated"):
        run_evaluate(own)


def test_a_champion_that_is_not_the_one_written_down_is_refused(own: World):
    artifact = own.open("champion")
    another = artifact.manifest.model_copy(update={"bundle_id": "b" * 64})
    write_manifest(artifact.path, another)
    with pytest.raises(ArtifactError, match="written down as bbbbbbbbbbbb"):
        run_evaluate(own)


def test_a_gate_at_a_k_that_was_not_evaluated_is_a_wrong_setting(own: World):
    with pytest.raises(ConfigError, match=r"gate.k is 50, but evaluate measured recall at 5, 10"):
        run_gate(own, GateConfig(k=50))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: f.filter((pl.col("model") != "champion") | (pl.col("user_id") != "u3")),
            "users",
        ),
        (lambda f: pl.concat([f, f.filter(pl.col("user_id") == "u3")]), "holds a user twice"),
        (lambda f: f.drop("recall_5"), "cannot be read"),
    ],
)
def test_scores_of_unlike_users_are_no_evidence(
    own: World, spoil: Callable[[pl.DataFrame], pl.DataFrame], message: str
):
    directory = own.path("scores")
    spoil(per_user(own)).write_parquet(directory / "per_user.parquet")
    manifests = {n: own.open(n).manifest for n in ("model", "indexes", "clean_log")}
    scores = json.loads((directory / "manifest.json").read_text())
    with pytest.raises(ArtifactError, match=message):
        read_evidence(directory, k=5, scores=ScoresManifest(**scores), **manifests)


def permuted(splits: Splits, *, seed: int) -> Splits:
    """The same log under other row numbers and scales, as another day's tables may have them."""
    rng = np.random.default_rng(seed)
    order_V = rng.permutation(len(splits.items.ids) - FIRST_ROW)
    row_of = np.concatenate([[0, 1], np.argsort(order_V) + FIRST_ROW]).astype(np.int32)
    values = splits.vocabularies["user/group"]
    order_C = rng.permutation(len(values))
    code_of = np.concatenate([[0, 1], np.argsort(order_C) + FIRST_ROW]).astype(np.int32)
    table_RF = np.array(splits.users.categorical_RF)
    table_RF[:, 1] = code_of[table_RF[:, 1]]
    dense_RF = np.array(splits.users.dense_RF)
    dense_RF[FIRST_ROW:] = (dense_RF[FIRST_ROW:] - 0.5) / 2.0
    items = np.concatenate([["", ""], splits.items.ids[FIRST_ROW:][order_V]])
    past = splits.histories
    return replace(
        splits,
        users=replace(splits.users, categorical_RF=table_RF, dense_RF=dense_RF),
        items=replace(splits.items, ids=items),
        histories=replace(
            past,
            items=row_of[past.items],
            spec_items=row_of[past.spec_items],
            shown_items=row_of[past.shown_items],
        ),
        test=replace(splits.test, relevant=row_of[splits.test.relevant]),
        vocabularies=splits.vocabularies
        | {"items": items[FIRST_ROW:].tolist(), "user/group": [values[i] for i in order_C]},
        scalers=splits.scalers | {"user/dense": (0.5, 2.0)},
    )


def champion_of(world: World) -> Bundle:
    return open_bundle(world.path("champion") / "bundle")


def test_the_champion_answers_the_same_whatever_the_rows_of_today(evaluated: World):
    splits, bundle = Splits.open(evaluated.path("splits")), champion_of(evaluated)
    today, rows = permuted(splits, seed=5), np.arange(len(splits.test.user))
    lists = ChampionRanker(bundle, splits, splits.test, splits.test_slices).rank(rows, 8)
    again = ChampionRanker(bundle, today, today.test, today.test_slices).rank(rows, 8)
    assert (lists != again).any()
    assert (splits.items.ids[lists] == today.items.ids[again]).all()


def test_the_champion_answers_as_it_serves_and_passes_over_what_it_does_not_know(evaluated: World):
    splits, bundle = Splits.open(evaluated.path("splits")), champion_of(evaluated)
    # Six items that the champion knows left the catalogue; in their rows are six it never saw.
    gone = [f"v{number}" for number in range(6)]
    ids = np.array([f"new-{name}" if name in gone else name for name in splits.items.ids.tolist()])
    users = replace(splits.users, dense_RF=np.abs(splits.users.dense_RF))
    today = replace(
        splits,
        items=replace(splits.items, ids=ids),
        users=users,
        vocabularies=splits.vocabularies | {"items": ids[FIRST_ROW:].tolist()},
    )
    queries, slices, past = today.test, today.test_slices, today.histories
    lists = ChampionRanker(bundle, today, queries, slices).rank(np.arange(len(queries.user)), 6)
    scenarios, groups = today.schema.scenarios, ["", "", *today.vocabularies["user/group"]]
    owner = np.repeat(np.arange(len(past.spec_offsets) - 1), np.diff(past.spec_offsets))
    scenario_at = dict(zip(past.spec_times_ms.tolist(), owner % len(scenarios), strict=True))
    served, compared, with_new = Retriever(bundle), 0, 0
    for row, user in enumerate(queries.user.tolist()):
        window = slice(slices.start[row], slices.end[row])
        clicks = [
            Click(str(ids[item]), scenarios[scenario_at[time]])
            for item, time in zip(past.items[window], past.times_ms[window].tolist(), strict=True)
        ]
        scenario = scenarios[queries.scenario[row]]
        own = slices.spec_end[row] - slices.spec_start[row]
        if sum(click.scenario == scenario for click in clicks) != own:
            continue  # the scenario's own history reaches further back than this one
        shown = past.shown_items[slices.shown_start[row] : slices.shown_end[row]]
        group = groups[users.categorical_RF[user, 1]]
        answer = served.retrieve_features(
            {
                "user_id": str(queries.user_id[row]),
                "group": group or None,
                "dense": float(np.expm1(users.dense_RF[user, 0].astype(np.float64))),
            },
            clicks,
            scenario,
            6,
            shown=[str(ids[item]) for item in shown],
        )
        expected = ["gone" if item in gone else item for item, _ in answer]
        found = ["gone" if item == NOTHING else str(ids[item]) for item in lists[row]]
        assert found == expected
        compared += 1
        with_new += any(click.item_id.startswith("new") for click in clicks)
    assert compared > 3
    assert with_new > 0
    assert (lists == NOTHING).any()


def test_a_champion_without_a_scenario_retrieves_nothing_there(evaluated: World):
    splits, bundle = Splits.open(evaluated.path("splits")), champion_of(evaluated)
    renamed = splits.schema.model_copy(update={"scenarios": ("s0", "opened today")})
    today = replace(splits, schema=renamed)
    lists = ChampionRanker(bundle, today, today.test, today.test_slices).rank(
        np.arange(len(today.test.user)), 4
    )
    assert (lists[today.test.scenario == 1] == NOTHING).all()
    assert (lists[today.test.scenario == 0] != NOTHING).all()
