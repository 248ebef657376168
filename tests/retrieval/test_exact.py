"""The exact top K is a full sort, cut."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.data.batches import ItemSource, UserSource
from perscen.models.families import make_model
from perscen.retrieval import exact
from perscen.retrieval.exact import catalogue_vectors, exact_top_k, query_vectors
from tests.factories import random_splits
from tests.retrieval.world import CONFIG


@settings(deadline=None, max_examples=25)
@given(
    users=st.integers(0, 5),
    items=st.integers(1, 30),
    k=st.integers(1, 40),
    values=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_the_top_k_is_the_full_sort_by_score_then_position(users, items, k, values, seed):
    rng = np.random.default_rng(seed)
    # Few whole values: many ties, also across the cut, and sums without rounding.
    user_BG = torch.from_numpy(rng.integers(-values, values + 1, (users, 2)).astype(np.float32))
    item_VG = torch.from_numpy(rng.integers(-values, values + 1, (items, 2)).astype(np.float32))
    scores, positions = exact_top_k(user_BG, item_VG, k)
    all_scores = (user_BG @ item_VG.T).numpy()
    order = np.array([np.lexsort((np.arange(items), -row)) for row in all_scores], dtype=np.int64)
    expected = order.reshape(users, items)[:, :k]
    assert positions.tolist() == expected.tolist()
    assert scores.tolist() == np.take_along_axis(all_scores, expected, axis=1).tolist()


def test_blocks_do_not_change_the_answer(monkeypatch):
    user_BG, item_VG = torch.randn(7, 4), torch.randn(50, 4)
    whole = exact_top_k(user_BG, item_VG, 10)
    monkeypatch.setattr(exact, "_SCORES_PER_BLOCK", 100)
    assert torch.equal(exact_top_k(user_BG, item_VG, 10)[1], whole[1])


def test_vectors_do_not_depend_on_how_rows_are_blocked():
    splits = random_splits()
    model = make_model(splits.schema, CONFIG).eval()
    items, users = ItemSource(splits.items), UserSource(splits)
    torch.testing.assert_close(
        catalogue_vectors(model, items, block=7), catalogue_vectors(model, items)
    )
    assert catalogue_vectors(model, items, scenarios=[1]).shape == (1, 30, model.dim)
    queries = (users, splits.valid, splits.valid_slices)
    torch.testing.assert_close(
        query_vectors(model, *queries, block=5), query_vectors(model, *queries)
    )
