"""EASE with popularity: the closed form against numpy, the choice, and what it may look at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from perscen.errors import ConfigError
from perscen.evaluation import ease
from perscen.evaluation.baselines import top_rows
from perscen.evaluation.ease import choose_ease, ease_blend, fit_ease
from perscen.experiments.rankers import check_ranker
from perscen.models.popularity import log_popularity
from perscen.schema import FIRST_ROW
from tests.factories import Event, make_splits, random_splits

DAY = 86_400_000


def plain_map(clicks: np.ndarray, strength: float) -> np.ndarray:
    """The map by the formula, entry by entry."""
    inverse = np.linalg.inv(clicks.T @ clicks + strength * np.eye(clicks.shape[1]))
    mapped = np.zeros_like(inverse)
    for i in range(len(mapped)):
        for j in range(len(mapped)):
            mapped[i, j] = 0.0 if i == j else -inverse[i, j] / inverse[j, j]
    return mapped


def test_the_map_is_the_closed_form_and_no_item_answers_for_itself() -> None:
    clicks = (np.random.default_rng(0).random((40, 7)) < 0.3).astype(np.float64)
    found = fit_ease(sparse.csr_matrix(clicks.astype(np.float32)), 3.0)
    np.testing.assert_allclose(found, plain_map(clicks, 3.0), rtol=1e-4, atol=1e-6)
    assert (np.diag(found) == 0).all()


def test_the_closed_form_is_the_least_squares_map_with_a_zero_diagonal() -> None:
    clicks = (np.random.default_rng(1).random((30, 5)) < 0.4).astype(np.float64)
    found = plain_map(clicks, 2.0)
    for j in range(5):
        others = [i for i in range(5) if i != j]
        x = clicks[:, others]
        column = np.linalg.solve(x.T @ x + 2.0 * np.eye(4), x.T @ clicks[:, j])
        np.testing.assert_allclose(found[others, j], column, atol=1e-10)


def test_a_query_is_answered_by_popularity_plus_what_goes_with_all_its_clicks() -> None:
    splits = random_splits(num_users=12, num_items=15, per_user=30, max_seq_len=3)
    blend = choose_ease(splits, k=3, strengths=(2.0,), weights=(1.5,))
    clicks = np.zeros((len(splits.users.ids), 15))
    clicks[splits.train.user, splits.train.item - FIRST_ROW] = 1
    prior = log_popularity(splits).numpy()[FIRST_ROW:].T
    mapped = plain_map(clicks, 2.0)
    queries, past = splits.test, splits.histories
    ranker = ease_blend(splits, queries, splits.test_slices, blend)
    found = ranker.rank(np.arange(len(queries.user)), 15)
    for row, (user, scenario) in enumerate(zip(queries.user, queries.scenario, strict=True)):
        mine = slice(past.user_offsets[user], past.user_offsets[user + 1])
        before = past.items[mine][past.times_ms[mine] < 8 * DAY]
        assert len(before) > 3, "more than a model reads"
        x = np.zeros(15)
        x[before - FIRST_ROW] = 1
        scores = prior[scenario] + 1.5 * x @ mapped
        ranked = scores[found[row] - FIRST_ROW]
        np.testing.assert_allclose(ranked, np.sort(scores)[::-1], atol=1e-5)
    again = ranker.rank(np.arange(len(queries.user))[::-1].copy(), 15)[::-1]
    assert (again == found).all()


def companions() -> list[Event]:
    """Items go in pairs: who clicks one clicks the other; every pair is equally popular."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(2, 62):
        pairs = rng.permutation(10)[:4].tolist()
        for number, pair in enumerate(pairs):
            first, second = rng.permutation(2).tolist()
            later = 6 * DAY + 1 if number == 0 else 8 * DAY + 1 if number == 1 else 5 * DAY
            events += [
                Event(user, 2 + 2 * pair + first, user % 2, 1000 + number),
                Event(user, 2 + 2 * pair + second, user % 2, later),
            ]
    return events


def test_it_finds_what_goes_together_where_popularity_cannot() -> None:
    splits = make_splits(
        companions(), valid_from_ms=6 * DAY, test_from_ms=8 * DAY, num_users=60, num_items=20
    )
    by_popularity = choose_ease(splits, k=8, weights=(0.0,))
    blend = choose_ease(splits, k=8, strengths=(1.0, 30.0), weights=(0.0, 100.0))
    assert blend.weight == 100, "there is nothing in popularity here"
    assert by_popularity.recall < 0.6 < 0.8 < blend.recall


def test_the_choice_is_the_best_of_the_validation_window_and_never_sees_the_test_window() -> None:
    splits = random_splits(num_users=20, num_items=30, per_user=20)
    tried = {
        (s, w): choose_ease(splits, k=5, strengths=(s,), weights=(w,)).recall
        for s in (1.0, 30.0)
        for w in (0.0, 8.0)
    }
    chosen = choose_ease(splits, k=5, strengths=(1.0, 30.0), weights=(0.0, 8.0))
    assert chosen.recall == max(tried.values()) == tried[chosen.strength, chosen.weight]
    assert min(tried.values()) < max(tried.values())
    blind = replace(splits, test=None, test_slices=None, served=None)
    same = choose_ease(blind, k=5, strengths=(1.0, 30.0), weights=(0.0, 8.0))
    assert (same.strength, same.weight) == (chosen.strength, chosen.weight)


def test_a_catalogue_too_large_for_all_pairs_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ease, "MAX_ITEMS", 10)
    splits = random_splits(num_items=30)
    num = len(np.unique(splits.train.item))
    with pytest.raises(ConfigError, match=f"all pairs of the {num} items .* at most 10 items"):
        choose_ease(splits, k=5)


def test_without_clicks_to_choose_by_it_is_refused_in_words() -> None:
    splits = make_splits(
        companions(), valid_from_ms=6 * DAY, test_from_ms=6 * DAY, num_users=60, num_items=20
    )
    with pytest.raises(ConfigError, match="the validation window has no click") as raised:
        choose_ease(splits, k=5)
    assert "split.valid_days" in raised.value.hint
    with pytest.raises(ConfigError, match="the validation window has no click"):
        check_ranker("ease_blend", splits)


def test_users_and_items_without_training_clicks_are_answered_by_popularity() -> None:
    splits = random_splits(num_users=12, num_items=40, per_user=10)
    blend = choose_ease(splits, k=5, strengths=(1.0,), weights=(100.0,))
    unknown = np.array([0], dtype=np.int32)
    queries = replace(
        splits.test, user=unknown, scenario=np.array([1], dtype=np.int32), user_id=np.array(["x"])
    )
    slices = replace(
        splits.test_slices,
        **{name: values[:1] * 0 for name, values in vars(splits.test_slices).items()},
    )
    ranker = ease_blend(splits, queries, slices, blend)
    prior = log_popularity(splits).numpy()[FIRST_ROW:, 1]
    assert (ranker.rank(np.array([0]), 40)[0] == top_rows(prior, 40)).all()
