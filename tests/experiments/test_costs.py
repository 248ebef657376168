"""The cost table counts what the layers do, and times two ways to the same scores."""

from __future__ import annotations

import pytest
import torch

from bench.costs import Rival
from perscen.models.families import MODELS
from perscen.recipes import recipe_named
from tests.factories import random_splits


def rival(family: str) -> Rival:
    return Rival(family, recipe_named("paper", family=family), random_splits())


@pytest.mark.medium
@pytest.mark.parametrize("family", sorted(MODELS))
def test_both_ways_give_the_pairs_the_same_scores(family: str):
    one = rival(family)
    one.count()  # the first batch starts a codebook
    assert torch.allclose(one.score("row-wise"), one.score("grouped"), atol=1e-5)


def test_operations_are_those_of_the_matrix_products():
    counts = rival("dssm").count()
    fields, layers = 16, 256 * 128 + 128 * 64
    # A user has four fields, the scenario's share is computed once per scenario; an item has four.
    assert counts["user_macs"] == pytest.approx(4 * fields * 256 + layers, rel=1e-3)
    assert counts["item_macs"] == 4 * fields * 256 + layers
    assert counts["gflops_grouped"] < counts["gflops_row-wise"]


def test_parameters_are_embeddings_and_dense_networks():
    counts = rival("dssm").count()
    assert counts["parameters"] == pytest.approx(counts["embeddings"] + counts["dense"])
    networks = 2 * (256 * 128 + 128 + 128 * 64 + 64) + (5 + 4) * 16 * 256 + 2 * 256
    vectors = (2 + 2) * 16  # of the dense fields and of the scenarios
    assert counts["dense"] * 1e6 == pytest.approx(networks + vectors, abs=1)
