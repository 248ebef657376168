"""What holds of the codebook (eqs. 8-10), whatever its options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.models.config import PerscenConfig, PreferenceConfig, VqConfig
from perscen.models.perscen import Perscen
from perscen.models.preference import ScenarioPreference
from perscen.models.quantiser import EMA_SMOOTHING, Quantiser
from tests.factories import random_splits

few = settings(max_examples=20, deadline=None)
cases = st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**16))


def made(config: VqConfig, rows: int, seed: int) -> tuple[Quantiser, torch.Tensor]:
    torch.manual_seed(seed)
    quantiser = Quantiser(3, config).double()
    return quantiser, torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)


@given(cases, st.sampled_from(["ste", "residual_only", "literal"]))
@few
def test_the_preference_is_z_plus_its_nearest_code(case, gradient) -> None:
    rows, codes, seed = case
    quantiser, z = made(VqConfig(codebook_size=codes, gradient=gradient), rows, seed)
    got = quantiser(z)
    for row in range(rows):
        distances = [float((z[row] - c).detach().pow(2).sum()) for c in quantiser.codes_KZ]
        assert int(got.codes_B[row]) == distances.index(min(distances))
    assert torch.equal(got.preference_BZ, z + quantiser.codes_KZ[got.codes_B])


def test_of_two_equally_near_codes_the_first_is_taken() -> None:
    quantiser = Quantiser(1, VqConfig(codebook_size=3, init="uniform"))
    with torch.no_grad():
        quantiser.codes_KZ.copy_(torch.tensor([[5.0], [1.0], [-1.0]]))
    assert quantiser.nearest(torch.tensor([[0.0]])).tolist() == [1]


@given(cases, st.floats(0, 1))
@few
def test_the_loss_moves_codes_by_its_first_term_and_z_by_its_second(case, beta) -> None:
    rows, codes, seed = case
    quantiser, z = made(VqConfig(codebook_size=codes, beta=beta, init="uniform"), rows, seed)
    got = quantiser(z)
    of_codes, of_z = torch.autograd.grad(got.loss, (quantiser.codes_KZ, z))
    for code in range(codes):
        mine = got.codes_B == code
        expected = 2 / rows * (quantiser.codes_KZ[code] - z[mine]).sum(dim=0)
        torch.testing.assert_close(of_codes[code], expected)  # 0 for a code nobody chose
    chosen = quantiser.codes_KZ[got.codes_B]
    torch.testing.assert_close(of_z, 2 * beta / rows * (z - chosen))


@pytest.mark.parametrize(
    ("gradient", "of_z", "of_codes"),
    [("ste", 2.0, 0.0), ("residual_only", 1.0, 0.0), ("literal", 1.0, 5.0)],
)
def test_the_task_reaches_z_and_the_codebook_as_the_setting_says(gradient, of_z, of_codes) -> None:
    quantiser, z = made(VqConfig(codebook_size=2, gradient=gradient, init="uniform"), 5, 0)
    task = quantiser(z).preference_BZ.sum()
    z_grad, codes_grad = torch.autograd.grad(task, (z, quantiser.codes_KZ), allow_unused=True)
    assert (z_grad == of_z).all()
    assert (0.0 if codes_grad is None else codes_grad[:, 0].sum()) == of_codes


@pytest.mark.parametrize("init", ["first_batch", "kmeans"])
def test_the_codes_start_from_the_first_training_batch_and_only_from_it(init) -> None:
    quantiser, z = made(VqConfig(codebook_size=3, init=init), 8, 0)
    before = quantiser.codes_KZ.clone()
    quantiser.eval()(z)
    assert torch.equal(quantiser.codes_KZ, before)
    quantiser.train()(z)
    started = quantiser.codes_KZ.clone()
    if init == "first_batch":
        assert all((z == code).all(dim=1).any() for code in started)
    else:
        means = torch.stack([z[quantiser.nearest(z) == k].mean(dim=0) for k in range(3)])
        torch.testing.assert_close(started, means)
    quantiser(z + 10)
    assert torch.equal(quantiser.codes_KZ, started)


def test_fewer_distinct_rows_than_codes_still_start_distinct_codes() -> None:
    quantiser, _ = made(VqConfig(codebook_size=4), 1, 0)
    quantiser.train()(torch.ones(6, 3, dtype=torch.float64))
    assert len(torch.unique(quantiser.codes_KZ, dim=0)) == 4
    assert (quantiser.codes_KZ - 1).abs().max() < 0.01


def test_a_moving_average_carries_codes_to_the_mean_of_their_rows() -> None:
    quantiser, _ = made(VqConfig(codebook_size=2, ema_decay=0.5), 1, 0)
    rows = torch.tensor([[0.0, 0, 0], [2, 0, 0], [10, 0, 0], [12, 0, 0]], dtype=torch.float64)
    for _ in range(40):
        quantiser.train()(rows)
    assert not list(quantiser.parameters())
    assert sorted(quantiser.codes_KZ[:, 0].tolist()) == pytest.approx([1, 11], abs=1e-3)


def test_a_code_nobody_uses_stays_and_one_in_use_is_the_mean_of_its_rows_to_the_bit() -> None:
    quantiser, z = made(VqConfig(codebook_size=2, init="uniform", ema_decay=0.5), 4, 0)
    far = torch.full((3,), 100.0, dtype=torch.float64)
    with torch.no_grad():
        quantiser.codes_KZ[1] = far
        quantiser.mean_KZ[1] = far / 2
    share, mean = quantiser.share_K.clone(), quantiser.mean_KZ.clone()
    used = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(60):
        quantiser.train()(z)
        share.lerp_(used, 0.5)
        mean.lerp_(used[:, None] * z.detach().mean(dim=0), 0.5)
        assert torch.equal(quantiser.codes_KZ[0], mean[0] / (share[0] + EMA_SMOOTHING))
    assert share[1] < 1e-12
    torch.testing.assert_close(quantiser.codes_KZ[1], far, rtol=0.1, atol=0)


def test_a_code_nobody_uses_is_revived_after_the_given_number_of_steps() -> None:
    quantiser, _ = made(VqConfig(codebook_size=2, init="uniform", revive_after=3), 1, 0)
    with torch.no_grad():
        quantiser.codes_KZ[1] = 100
    z = torch.randn(4, 3, dtype=torch.float64)
    for _ in range(2):
        quantiser.train()(z)
        assert (quantiser.codes_KZ[1] == 100).all()
    quantiser(z)
    assert (z == quantiser.codes_KZ[1]).all(dim=1).any()


def test_what_a_sparse_scenario_used_waits_for_its_next_batch() -> None:
    config = VqConfig(codebook_size=3, init="uniform", revive_after=2)
    quantiser = Quantiser(1, config, num_scenarios=2).train()
    with torch.no_grad():
        quantiser.codes_KZ.copy_(torch.tensor([[0.0], [10.0], [20.0]]))
    in_rich, in_sparse = torch.zeros(6, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    quantiser(torch.full((2, 1), 9.0), scenario_B=in_sparse)
    for _ in range(9):
        quantiser(torch.zeros(6, 1), scenario_B=in_rich)
    assert quantiser.codes_KZ.flatten().tolist() == [0, 10, 0], "the third alone was nobody's"
    quantiser(torch.full((2, 1), 0.5), scenario_B=in_sparse)  # its next batch needs it no more
    assert quantiser.codes_KZ[1].item() == 0.5


def test_models_saved_before_scenarios_were_told_apart_still_load() -> None:
    config = VqConfig(codebook_size=3, revive_after=2)
    old = Quantiser(1, config, num_scenarios=2)
    weights = {name: value for name, value in old.state_dict().items() if name != "used_SK"}
    loaded = Quantiser(1, config, num_scenarios=2)
    loaded.load_state_dict(weights)
    assert torch.equal(loaded.codes_KZ, old.codes_KZ)
    assert not loaded.used_SK.any()


def test_masked_rows_leave_loss_and_codebook_alone() -> None:
    quantiser, z = made(VqConfig(codebook_size=2, init="uniform", mask_empty=True), 6, 0)
    counted = torch.tensor([True, True, False, True, False, False])
    torch.testing.assert_close(quantiser(z, counted).loss, quantiser(z[counted]).loss)
    assert quantiser(z, torch.zeros(6, dtype=torch.bool)).loss == 0


def test_without_a_codebook_the_preference_is_z_and_the_loss_zero() -> None:
    torch.manual_seed(0)
    config = PerscenConfig(out_dim=4, vq=VqConfig(codebook_size=0))
    side = ScenarioPreference(4, config, num_scenarios=2)
    history, scenario = torch.randn(3, 16), torch.randn(2, 16)
    got = side(history, None, scenario, torch.tensor([0, 1, 1]))
    p_s = side.encode_scenario(scenario)[[0, 1, 1]]
    expected = side.fuse(torch.cat([side.project(history), p_s], dim=1))
    torch.testing.assert_close(got.vector_BW, expected)
    assert got.loss == 0
    assert got.codes_B is None


def test_one_codebook_serves_all_scenarios() -> None:
    shapes = set()
    for num_scenarios in (2, 3):
        schema = random_splits(num_scenarios=num_scenarios).schema
        model = Perscen(schema, PerscenConfig(pref=PreferenceConfig(dim=5)))
        shapes.add(tuple(model.state_dict()["user_preference.quantise.codes_KZ"].shape))
    assert shapes == {(10, 5)}
