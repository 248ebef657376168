"""Recall and hits per user, by hand and by invariants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.data.splits import Ragged
from perscen.evaluation.baselines import NOTHING, RandomRanker, top_rows
from perscen.evaluation.metrics import find_hits, mean_over_users
from perscen.retrieval.exact import exact_top_k
from perscen.schema import FIRST_ROW

QUICK = settings(deadline=None, max_examples=25)


def ragged(lists: Sequence[Sequence[int]]) -> Ragged:
    offsets = np.cumsum([0, *(len(values) for values in lists)])
    values = [value for values in lists for value in values]
    return Ragged(offsets.astype(np.int64), np.array(values, dtype=np.int32))


def test_recall_divides_by_the_whole_relevant_set_and_hits_asks_for_one():
    retrieved = np.array([[5, 7, 9], [2, 3, 4], [8, 6, 5]])
    hits = find_hits(retrieved, ragged([[7, 11, 12, 13], [10], [5, 6, 8]]))
    assert hits.recall_at(3).tolist() == [0.25, 0.0, 1.0]
    assert hits.recall_at(2).tolist() == pytest.approx([0.25, 0.0, 2 / 3])
    assert hits.recall_at(1).tolist() == pytest.approx([0.0, 0.0, 1 / 3])
    assert hits.hits_at(2).tolist() == [1.0, 0.0, 1.0]


def test_more_relevant_items_than_places_cannot_reach_one():
    hits = find_hits(np.array([[2, 3]]), ragged([[2, 3, 4, 5]]))
    assert hits.recall_at(2).tolist() == [0.5]


def test_a_relevant_item_counts_once_however_often_it_is_listed_or_clicked():
    hits = find_hits(np.array([[4, 4, 5]]), ragged([[4, 4, 6]]))
    assert hits.recall_at(3).tolist() == [0.5]


def test_an_empty_place_is_no_hit_even_of_the_neighbouring_query():
    hits = find_hits(np.array([[3, NOTHING], [NOTHING, NOTHING]]), ragged([[9], [9]]))
    assert hits.hits_at(2).tolist() == [0.0, 0.0]


def test_users_with_nothing_relevant_are_left_out_of_the_mean():
    hits = find_hits(np.array([[2], [2]]), ragged([[], [2]]))
    assert mean_over_users(hits.recall_at(1)) == 1.0
    assert mean_over_users(hits.hits_at(1)) == 1.0


def test_a_mean_over_nobody_has_no_meaning():
    hits = find_hits(np.array([[2]]), ragged([[]]))
    with pytest.raises(ValueError, match="no user has a relevant item"):
        mean_over_users(hits.recall_at(1))


@pytest.mark.parametrize("k", [0, 4])
def test_a_k_outside_the_lists_is_an_error(k: int):
    with pytest.raises(ValueError, match="3 items were retrieved"):
        find_hits(np.array([[2, 3, 4]]), ragged([[2]])).recall_at(k)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]]]:
    num_items, num_queries = draw(st.integers(2, 9)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    full = FIRST_ROW + np.array([rng.permutation(num_items) for _ in range(num_queries)])
    relevant = [
        (FIRST_ROW + rng.choice(num_items, rng.integers(1, num_items + 1), replace=False)).tolist()
        for _ in range(num_queries)
    ]
    return full, relevant


@QUICK
@given(rankings())
def test_recall_and_hits_keep_their_order_grow_with_k_and_end_at_one(case):
    full, relevant = case
    hits = find_hits(full, ragged(relevant))
    last = np.zeros((2, len(full)))
    for k in range(1, full.shape[1] + 1):
        now = np.stack([hits.recall_at(k), hits.hits_at(k)])
        by_sets = [
            len(set(row[:k]) & set(mine)) / len(mine)
            for row, mine in zip(full, relevant, strict=True)
        ]
        assert now[0].tolist() == by_sets
        assert (now[0] >= 0).all()
        assert (now[0] <= now[1]).all()
        assert (now[1] <= 1).all()
        assert (now >= last).all()
        last = now
    assert (last == 1).all()


@QUICK
@given(rankings())
def test_recall_is_hits_when_every_user_has_one_relevant_item(case):
    full, relevant = case
    hits = find_hits(full, ragged([mine[:1] for mine in relevant]))
    for k in range(1, full.shape[1] + 1):
        assert hits.recall_at(k).tolist() == hits.hits_at(k).tolist()


@QUICK
@given(rankings(), st.integers(0, 2**32 - 1))
def test_the_order_of_users_does_not_matter(case, seed):
    full, relevant = case
    order = np.random.default_rng(seed).permutation(len(full))
    shuffled = find_hits(full[order], ragged([relevant[place] for place in order]))
    assert (shuffled.hit_QK == find_hits(full, ragged(relevant)).hit_QK[order]).all()


@QUICK
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40).map(lambda v: np.array(v, float)),
    st.integers(1, 45),
)
def test_lists_are_a_full_stable_sort_and_survive_a_monotone_transform(scores, k):
    by_sort = FIRST_ROW + np.argsort(-scores, kind="stable")[:k]
    expected = [*by_sort, *[NOTHING] * (k - len(by_sort))]
    assert top_rows(scores, k).tolist() == expected
    assert top_rows(np.exp(scores) - 7, k).tolist() == expected
    # One user vector whose inner products are the scores: the model's search sorts as we do.
    _, positions = exact_top_k(torch.ones(1, 1), torch.tensor(scores[:, None]).float(), k)
    assert (positions[0].numpy() + FIRST_ROW).tolist() == by_sort.tolist()


def test_random_lists_find_the_share_of_the_catalogue_they_show():
    ranker, num_items, k = RandomRanker(50, seed=1), 50, 10
    lists = ranker.rank(np.arange(4_000), k)
    assert all(len(set(row)) == k for row in lists.tolist())
    hits = find_hits(lists, ragged([[2, 30]] * 4_000))
    assert mean_over_users(hits.recall_at(k)) == pytest.approx(k / num_items, abs=0.02)


def test_random_lists_depend_on_the_seed_and_the_query_alone():
    rows = np.arange(20)
    lists = RandomRanker(30, seed=1).rank(rows, 5)
    assert (RandomRanker(30, seed=1).rank(rows[7:9], 5) == lists[7:9]).all()
    assert (RandomRanker(30, seed=2).rank(rows, 5) != lists).any()
