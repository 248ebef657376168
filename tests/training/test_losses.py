"""The losses, and that the grouped way equals the naive one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perscen.data.sampling import CatalogueSampler
from perscen.data.splits import Splits
from perscen.models.config import EmbeddingConfig, M5Config, PerscenConfig
from perscen.models.m5 import M5
from perscen.models.perscen import Perscen
from perscen.schema import FIRST_ROW
from perscen.seeding import seed_torch
from perscen.training.losses import Objective, binary_cross_entropy, softmax_cross_entropy
from tests.factories import random_splits
from tests.training.towers import quick, tiny

LOSSES = {
    "bce": {"loss": "bce"},
    "sampled softmax": {"loss": "sampled_softmax"},
    "full softmax": {"loss": "full_softmax"},
    "full softmax of a sample": {"loss": "full_softmax", "softmax_items": 9},
}


PERSCEN = PerscenConfig.model_validate(
    {
        "emb": {"dim": 4, "init_std": 0.5},
        "gnn": {"layers": 2},
        "vq": {"codebook_size": 3},
        "out_dim": 8,
        "item_bias": "popularity",
        "score": "cosine",
        "learn_temperature": True,
        "shown_sequence": True,
    }
)


def perscen(splits: Splits) -> Perscen:
    seed_torch(0, "init")
    return Perscen(splits.schema, PERSCEN)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_items", [12, 200])
@pytest.mark.parametrize("make", [tiny, perscen])
def test_the_grouped_way_gives_the_loss_and_gradients_of_one_row_per_pair(loss, num_items, make):
    splits = random_splits(num_items=num_items, num_scenarios=3)
    rows = np.arange(20) * 5
    results = []
    for dedup in (True, False):
        model = make(splits).double().eval()
        config = quick(**LOSSES[loss], dedup=dedup)
        objective = Objective(model, splits, config, device=torch.device("cpu"))
        result = objective(rows, epoch=1, step=0)
        result.total.backward()
        results.append((result, {n: p.grad for n, p in model.named_parameters()}))
    (grouped, gradients), (naive, expected) = results
    torch.testing.assert_close(grouped.task_B, naive.task_B, rtol=0, atol=1e-6)
    torch.testing.assert_close(grouped.total, naive.total, rtol=0, atol=1e-6)
    for name, gradient in gradients.items():
        size = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-8 * size, msg=name)


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_mixed_precision_ends_with_the_vectors_and_their_products_are_not_rounded(
    loss, dedup, monkeypatch
):
    splits, met = random_splits(), []

    def certain(*_: object, **__: object) -> tuple[np.ndarray, np.ndarray]:
        return FIRST_ROW + np.arange(9), np.zeros(9)  # the log of a chance would hide a rounding

    monkeypatch.setattr(CatalogueSampler, "draw", certain)
    model = M5(splits.schema, M5Config(emb=EmbeddingConfig(init_std=0.3), widths=(16,)))
    config = quick(**LOSSES[loss], dedup=dedup, amp=True)
    objective = Objective(model, splits, config, device=torch.device("cpu"))
    objective._row_loss = lambda logits_BC, _: met.append(logits_BC) or logits_BC.sum(dim=1)
    objective(np.arange(20) * 3, epoch=1, step=0)
    logits = met[0][met[0].isfinite()]
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16()).float().mean() > 0.9


def test_a_sample_of_the_catalogue_estimates_its_softmax_without_bias() -> None:
    """Sums of exp(logit) over the catalogue, in the mean over steps, are the exact ones."""
    splits = random_splits(num_items=60, num_scenarios=2, per_user=40)
    model = tiny(splits).eval()
    rows = np.arange(40)

    def rest(step: int, **config: object) -> torch.Tensor:
        """The sum over all items but the row's own, against the own one's."""
        objective = Objective(
            model, splits, quick(loss="full_softmax", **config), device=torch.device("cpu")
        )
        return objective(rows, epoch=1, step=step).task_B.detach().exp() - 1

    exact = rest(0)
    estimates = torch.stack([rest(step, softmax_items=12) for step in range(600)])
    error = (estimates.mean(dim=0) - exact) / (estimates.std(dim=0) / math.sqrt(600))
    assert error.abs().max() < 4.5
    assert error.abs().mean() < 1.5
    assert (estimates.std(dim=0) > 0.01 * exact).any()


def test_a_catalogue_that_is_not_larger_than_the_sample_is_met_whole() -> None:
    splits = random_splits(num_items=60, num_scenarios=2)
    model = tiny(splits).eval()

    def loss(size: int, *, step: int) -> float:
        config = quick(loss="full_softmax", softmax_items=size)
        objective = Objective(model, splits, config, device=torch.device("cpu"))
        return objective(np.arange(20), epoch=1, step=step).total.item()

    assert loss(60, step=0) == loss(60, step=1) == loss(8192, step=0)
    assert loss(59, step=0) != loss(59, step=1)


def test_binary_cross_entropy_is_ln_2_at_zero_logits_and_falls_when_the_positive_rises():
    logits, target = torch.zeros(3, 5), torch.tensor([0, 2, 4])
    at_zero = binary_cross_entropy(logits, target)
    assert at_zero.tolist() == pytest.approx([math.log(2)] * 3)
    logits[torch.arange(3), target] = 1.0
    assert (binary_cross_entropy(logits, target) < at_zero).all()


def test_softmax_is_ln_of_the_number_of_candidates_at_zero_logits():
    loss = softmax_cross_entropy(torch.zeros(2, 11), torch.tensor([0, 3]))
    assert loss.tolist() == pytest.approx([math.log(11)] * 2)


def test_the_full_softmax_meets_the_items_of_the_samples_own_scenario():
    splits = random_splits(num_scenarios=3)
    model = tiny(splits).eval()
    objective = Objective(model, splits, quick(loss="full_softmax"), device=torch.device("cpu"))
    together = objective(np.arange(9), epoch=1, step=0).task_B
    alone = [objective(np.array([row]), epoch=1, step=0).task_B.item() for row in range(9)]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)
