"""Counts of codes that are easy to believe, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perscen.diagnostics.codes import (
    divergence,
    divergence_by_chance,
    share_on_codes_of,
    use_of,
)
from perscen.diagnostics.quantising import alone_table, clusters, quantise_alone, remedies
from perscen.models.config import VqConfig


def test_evenly_used_codes_have_their_number_as_perplexity() -> None:
    use = use_of(np.array([5, 5, 0, 5, 5, 0]))
    assert (use.num_rows, use.used, use.dead) == (20, 4, 2)
    assert use.perplexity == pytest.approx(4.0)


def test_a_scenario_shares_with_another_the_queries_on_its_codes() -> None:
    counts = np.array([[6, 2, 2, 0], [0, 1, 3, 0], [0, 0, 0, 0]])
    share = share_on_codes_of(counts)
    assert share[0].tolist() == [1.0, 0.4, 0.0]
    assert share[1].tolist() == [1.0, 1.0, 0.0]
    assert share[2].tolist() == [0.0, 0.0, 0.0]


def test_the_divergence_is_0_for_like_1_for_disjoint_and_by_hand_between() -> None:
    assert divergence(np.array([2, 6, 0]), np.array([1, 3, 0])) == pytest.approx(0.0)
    assert divergence(np.array([4, 0]), np.array([0, 9])) == pytest.approx(1.0)
    # Against (3/4, 1/4), the middle: 1 log2(4/3) and (1/2) log2(2/3) + (1/2) log2(2).
    by_hand = (np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5) / 2
    assert divergence(np.array([7, 0]), np.array([4, 4])) == pytest.approx(by_hand)
    with pytest.raises(ValueError, match="without queries"):
        divergence(np.array([0, 0]), np.array([1, 1]))


def test_chance_allows_a_few_queries_more_divergence_than_many() -> None:
    rich = np.array([400, 300, 200, 100])
    few, many = np.array([20, 15, 10, 5]), np.array([200, 150, 100, 50])
    assert divergence_by_chance(few, rich) > 3 * divergence_by_chance(many, rich)
    assert divergence(few, rich) < divergence_by_chance(few, rich)
    apart = np.array([5, 10, 15, 20])
    assert divergence(apart, rich) > divergence_by_chance(apart, rich)


def test_two_clusters_give_two_codes_used_evenly_where_the_start_meets_both() -> None:
    vectors = clusters(2, num_rows=300, dim=4, spread=0.01)
    config = VqConfig(codebook_size=2, init="kmeans", ema_decay=0.9)
    found = [quantise_alone(vectors, config, steps=20, batch=64, seed=seed) for seed in range(4)]
    best = min(found, key=lambda one: one["distortion"])
    assert best["perplexity"] == pytest.approx(2.0)
    assert (best["used"], best["dead"]) == (2, 0)
    assert best["distortion"] < 1e-3


def test_revival_brings_back_the_codes_that_a_far_start_leaves_dead() -> None:
    vectors = 5 + clusters(4, num_rows=256, dim=4)
    far = VqConfig(codebook_size=4, init="uniform", ema_decay=None, revive_after=None)
    plain = quantise_alone(vectors, far, steps=60, batch=64)
    revived = far.model_copy(update={"revive_after": 5})
    helped = quantise_alone(vectors, revived, steps=60, batch=64)
    assert plain["dead"] == 3
    assert helped["dead"] == 0
    assert helped["distortion"] < plain["distortion"] / 2


def test_k_means_is_the_yardstick_of_the_remedies() -> None:
    table = alone_table(clusters(4, num_rows=256, dim=4), VqConfig(codebook_size=6), steps=20)
    distortion = dict(table.select("remedy", "distortion").iter_rows())
    assert list(distortion) == ["none", "EMA", "revival", "EMA + revival", "3 codes", "k-means"]
    assert distortion["k-means"] == min(distortion.values())
    assert table["used"].to_list() == (table["codes"] - table["dead"]).to_list()


def test_the_same_seed_gives_the_same_codebook() -> None:
    vectors = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    config = VqConfig(codebook_size=4, revive_after=2)
    assert quantise_alone(vectors, config, steps=10) == quantise_alone(vectors, config, steps=10)


def test_remedies_change_what_their_name_says_and_nothing_else() -> None:
    base = VqConfig(codebook_size=8, ema_decay=0.9, mask_empty=True)
    by_name = remedies(base)
    assert by_name["none"] == base.model_copy(update={"ema_decay": None})
    assert by_name["EMA"] == base
    assert by_name["revival"].ema_decay is None
    assert by_name["EMA + revival"].revive_after == 30
    assert by_name["4 codes"].codebook_size == 4
    assert (by_name["beta 0"].beta, by_name["beta 1"].beta) == (0.0, 1.0)


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_no_remedy_is_what_the_quantiser_has_already(beta) -> None:
    by_name = remedies(VqConfig(codebook_size=8, beta=beta))
    assert f"beta {beta:g}" not in by_name
    assert len({config.model_dump_json() for config in by_name.values()}) == len(by_name) == 7
