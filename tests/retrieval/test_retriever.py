"""What a caller is told: items, or a clear error."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.families import load_model
from perscen.retrieval.exact import catalogue_vectors, exact_top_k
from perscen.retrieval.raw_users import Click, RawUsers
from perscen.retrieval.retriever import Retriever
from perscen.schema import FIRST_ROW, MISSING_ROW
from tests.retrieval.conftest import bundle_of


@pytest.fixture(scope="module")
def retriever(bundle_template):
    return Retriever.open(bundle_template.path)


@pytest.fixture(scope="module")
def splits(world_template):
    return Splits.open(world_template.path("splits"))


def history_of(splits, row):
    """The user's clicks up to the logical date, oldest first, as the caller would know them."""
    first, last = splits.histories.user_offsets[row : row + 2]
    own = splits.histories
    # The scenario of each click follows from the copy of the same clicks sorted by scenario.
    num = len(splits.schema.scenarios)
    clicks = []
    for scenario in range(num):
        start, end = own.spec_offsets[row * num + scenario : row * num + scenario + 2]
        times, items = own.spec_times_ms[start:end], own.spec_items[start:end]
        clicks += [(t, i, scenario) for t, i in zip(times, items, strict=True)]
    assert len(clicks) == last - first
    return [
        Click(str(splits.items.ids[item]), splits.schema.scenarios[scenario])
        for _, item, scenario in sorted(clicks)
    ]


def test_known_users_get_the_exact_top_items_of_the_trained_model(
    retriever, splits, world_template
):
    model = load_model(world_template.path("model"))
    items_SVG = catalogue_vectors(model, ItemSource(splits.items))
    rows = np.arange(FIRST_ROW, FIRST_ROW + 5)
    for number, scenario in enumerate(splits.schema.scenarios):
        places = rows * len(splits.schema.scenarios) + number
        all_users = np.repeat(np.arange(len(splits.users.ids)), len(splits.schema.scenarios))
        scenarios = np.full(len(all_users), number)
        batch = UserSource(splits).batch(all_users, scenarios, splits.served, places)
        vectors_BG = model.encode_users(batch).vectors_BG
        expected = exact_top_k(vectors_BG.detach(), items_SVG[number], 5)[1].numpy() + FIRST_ROW
        answers = retriever.retrieve_batch([str(i) for i in splits.users.ids[rows]], scenario, 5)
        found = [[item for item, _ in answer] for answer in answers]
        assert found == splits.items.ids[expected].tolist()


def test_scores_fall_and_the_scenario_matters(retriever):
    first, second = (retriever.retrieve("u0", scenario, 10) for scenario in ("s0", "s1"))
    assert [score for _, score in first] == sorted((s for _, s in first), reverse=True)
    assert first != second


def test_a_user_never_seen_is_answered_without_history(retriever):
    answer = retriever.retrieve("nobody", "s0", 4)
    assert len(answer) == 4
    assert answer == retriever.retrieve("nobody else", "s0", 4)


def test_one_user_alone_gets_what_he_gets_in_a_batch(retriever):
    together = retriever.retrieve_batch(["u3", "nobody", "u4"], "s1", 6)
    for user, answer in zip(["u3", "nobody", "u4"], together, strict=True):
        alone = retriever.retrieve(user, "s1", 6)
        assert [item for item, _ in alone] == [item for item, _ in answer]


def test_no_users_get_no_answers(retriever):
    assert retriever.retrieve_batch([], "s0", 3) == []


def test_more_than_the_catalogue_is_the_whole_catalogue(retriever, splits):
    answer = retriever.retrieve("u0", "s0", 10_000)
    assert sorted(item for item, _ in answer) == sorted(splits.items.ids[FIRST_ROW:])


def test_an_unknown_scenario_is_named_with_those_that_are_known(retriever):
    with pytest.raises(ConfigError, match="unknown scenario 's9'") as error:
        retriever.retrieve("u0", "s9", 3)
    assert "s0, s1" in error.value.hint


@pytest.mark.parametrize("k", [0, -3])
def test_asking_for_no_items_is_an_error(retriever, k):
    with pytest.raises(ConfigError, match=f"k is {k}"):
        retriever.retrieve("u0", "s0", k)


def test_raw_features_and_clicks_give_what_the_shipped_ones_give(retriever, splits):
    for row in range(FIRST_ROW, FIRST_ROW + 6):
        group = splits.users.categorical_RF[row, 1]
        features = {
            "user_id": str(splits.users.ids[row]),
            "group": None if group == 1 else "abcd"[group - FIRST_ROW],
            # The scaler is (0, 1): undo log(1 + x); a negative value cannot come from one.
            "dense": float(np.expm1(splits.users.dense_RF[row, 0])),
        }
        if splits.users.dense_RF[row, 0] < 0:
            continue
        for scenario in splits.schema.scenarios:
            shown = splits.histories.shown_items[slice(*splits.histories.shown_offsets[row:][:2])]
            answer = retriever.retrieve_features(
                features,
                history_of(splits, row),
                scenario,
                8,
                shown=splits.items.ids[shown].tolist(),
            )
            expected = retriever.retrieve(str(splits.users.ids[row]), scenario, 8)
            assert [item for item, _ in answer] == [item for item, _ in expected]
            scores = torch.tensor([[s for _, s in answer], [s for _, s in expected]])
            torch.testing.assert_close(scores[0], scores[1])


def test_a_caller_may_know_nothing_of_the_user(retriever):
    assert len(retriever.retrieve_features({}, [], "s0", 3)) == 3


def test_clicks_on_items_that_left_the_catalogue_are_passed_over(retriever):
    kept = [Click("v1", "s0"), Click("v2", "s1")]
    gone = [Click("v1", "s0"), Click("gone", "s0"), Click("v2", "s1")]
    assert retriever.retrieve_features({}, gone, "s0", 3) == retriever.retrieve_features(
        {}, kept, "s0", 3
    )


@pytest.mark.parametrize(
    ("source", "expected"), [("independent", ["v0", "v1"]), ("filter_truncated", ["v1"])]
)
def test_raw_clicks_of_a_scenario_are_cut_as_those_of_training_were(
    splits, tmp_path, source, expected
):
    for name in ("vocabularies", "scalers"):
        (tmp_path / f"{name}.json").write_text(json.dumps(getattr(splits, name)))
    schema = splits.schema.model_copy(update={"max_seq_len": 2, "spec_seq_source": source})
    clicks = [Click("v0", "s0"), Click("v1", "s0"), Click("gone", "s1"), Click("v2", "s1")]
    query = RawUsers(schema, tmp_path).query({}, clicks, "s0", [])
    assert splits.items.ids[query.spec_history.values_V.numpy()].tolist() == expected
    assert splits.items.ids[query.history.values_V.numpy()].tolist() == ["v1", "v2"]


@pytest.mark.parametrize("value", [9, 9.0, "9"])
def test_numbers_find_their_vocabulary_entry_as_the_log_wrote_them(splits, tmp_path, value):
    (tmp_path / "vocabularies.json").write_text(
        json.dumps(splits.vocabularies | {"user/group": ["1", "9"]})
    )
    (tmp_path / "scalers.json").write_text(json.dumps(splits.scalers))
    query = RawUsers(splits.schema, tmp_path).query({"group": value}, [], "s0", [])
    assert query.categorical_BF.tolist() == [[MISSING_ROW, FIRST_ROW + 1]]


@pytest.mark.parametrize(
    ("features", "message"),
    [({"grup": "a"}, "'grup' is no field"), ({"dense": "tall"}, "dense is 'tall'")],
)
def test_features_that_make_no_sense_are_named(retriever, features, message):
    with pytest.raises(ConfigError, match=message):
        retriever.retrieve_features(features, [], "s0", 3)


def test_a_bundle_without_users_says_so_and_still_serves_raw_features(world, tmp_path):
    retriever = Retriever.open(bundle_of(world, tmp_path / "bundle", include_users=False).path)
    with pytest.raises(ConfigError, match="published without users"):
        retriever.retrieve("u0", "s0", 3)
    assert len(retriever.retrieve_features({}, [Click("v1", "s0")], "s0", 3)) == 3
