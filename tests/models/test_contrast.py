"""SASS's stage one: the loss by its formula, what it reads, and what it reaches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.config import SassConfig
from perscen.models.contrast import ScenarioContrast, info_nce
from perscen.models.sass import Sass
from tests.factories import Event, make_splits, random_events, random_splits
from tests.models.contract import item_vectors, parts_by_scenario, train_users
from tests.models.test_sass import sass

DAY = 86_400_000
CPU = torch.device("cpu")


def stage(model: Sass, splits: Splits, *, seed: int = 0) -> ScenarioContrast:
    made = model.pretraining(splits, seed=seed, device=CPU)
    assert made is not None
    return made


def fresh(splits: Splits, **choices: Any) -> Sass:
    torch.manual_seed(0)
    return sass(splits.schema, **choices)


def test_the_loss_is_the_plain_formula_over_both_directions() -> None:
    torch.manual_seed(0)
    q, k, tau = torch.randn(5, 3), torch.randn(5, 3), 0.3

    def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
        return math.exp(float(torch.dot(one / one.norm(), other / other.norm())) / tau)

    total = 0.0
    for i in range(5):
        total += math.log(likeness(q[i], k[i]) / sum(likeness(q[i], k[j]) for j in range(5)))
        total += math.log(likeness(k[i], q[i]) / sum(likeness(k[i], q[j]) for j in range(5)))
    found = info_nce(q, k, num_rows=5, temperature=tau)
    assert found.mean().item() == pytest.approx(-total / (2 * 5), rel=1e-5)
    assert torch.equal(info_nce(k, q, num_rows=5, temperature=tau), found)
    assert info_nce(q[:1], k[:1], num_rows=1, temperature=tau).tolist() == [0.0]


def test_a_step_is_the_loss_of_its_users_and_of_its_items_each_in_two_of_its_scenarios() -> None:
    splits = random_splits(num_scenarios=3, num_users=9, num_items=12, per_user=12)
    model = fresh(splits, pretrain_batch=4, pretrain_temperature=0.2).double()
    contrast = stage(model, splits)
    users, items = contrast._plan(2)
    shown = splits.impressions
    for pairs, rows, of in (
        (users, contrast._user_Q[::3], shown.user),
        (items, contrast._item_E, shown.item),
    ):
        met = np.concatenate([pair.place_M for pair in pairs])
        assert sorted(met) == list(range(len(rows))), "each once per epoch"
        for pair in pairs:
            for place, *scenarios in zip(*pair, strict=True):
                known = set(shown.scenario[of == rows[place]].tolist())
                assert len(set(scenarios)) == 2
                assert set(scenarios) <= known
    step, expected = 1, 0.0
    for pairs, encode in (
        (users[step], contrast._encode_users),
        (items[step], contrast._encode_items),
    ):
        vectors = encode(pairs)
        num_rows = len(pairs.place_M)
        expected += info_nce(*vectors, num_rows=num_rows, temperature=0.2).mean().item()
    assert contrast.loss(epoch=2, step=step).item() == pytest.approx(expected)


def test_the_history_is_all_a_user_clicked_in_the_training_window_and_nothing_later() -> None:
    events = random_events(num_users=10, num_items=20, num_scenarios=2, per_user=20, days=10)
    later = [
        replace(e, item=(e.item + 7) % 20 + 2, clicked=not e.clicked) if e.time_ms >= 6 * DAY else e
        for e in events
    ]
    losses = []
    for log in (events, later):
        splits = make_splits(
            log, valid_from_ms=6 * DAY, test_from_ms=8 * DAY, num_users=10, num_items=20
        )
        losses.append(stage(fresh(splits), splits).loss(epoch=1, step=0).item())
    assert losses[0] == losses[1]
    contrast = stage(fresh(splits), splits)
    for query, (user, scenario) in enumerate(
        zip(contrast._user_Q, contrast._scenario_Q, strict=True)
    ):
        slices, past = contrast._slices_Q, splits.histories
        clicks = [e for e in later if e.user == user and e.clicked and e.time_ms < 6 * DAY]
        clicks.sort(key=lambda e: e.time_ms)
        of_scenario = [e.item for e in clicks if e.scenario == scenario]
        found = past.items[slices.start[query] : slices.end[query]]
        assert found.tolist() == [e.item for e in clicks]
        found = past.spec_items[slices.spec_start[query] : slices.spec_end[query]]
        assert found.tolist() == of_scenario


def test_only_the_towers_are_reached_and_only_the_scenarios_that_were_drawn() -> None:
    splits = random_splits(num_scenarios=5, num_users=9, num_items=12)
    model = fresh(splits, pretrain_batch=2, score="cosine", item_bias="popularity")
    contrast = stage(model, splits)
    users, items = (of_step[0] for of_step in contrast._plan(1))
    contrast.loss(epoch=1, step=0).backward()
    for tower, pairs in ((model.user_tower, users), (model.item_tower, items)):
        met = {*pairs.first_M.tolist(), *pairs.second_M.tolist()}
        assert len(met) < 5, "every scenario was drawn: this test shows nothing"
        for part, own in parts_by_scenario(tower):
            for name, parameter in part.named_parameters():
                reached = parameter.grad is not None and bool(parameter.grad.any())
                assert reached == (own in met), name
    for name, parameter in model.named_parameters():
        if ".branches." not in name:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


@pytest.mark.medium
def test_it_teaches_to_find_users_and_items_of_one_scenario_again_in_another() -> None:
    splits = random_splits(num_users=16, num_items=16)
    model = fresh(splits)
    contrast = stage(model, splits)

    @torch.no_grad()
    def found_again() -> list[float]:
        of_users, of_items = contrast._plan(1)
        shares = []
        for one, other in (
            contrast._encode_users(of_users[0]),
            contrast._encode_items(of_items[0]),
        ):
            likeness = F.normalize(one) @ F.normalize(other).T
            hits = likeness.argmax(dim=1) == torch.arange(len(one))
            shares.append(float(hits.float().mean()))
        return shares

    before = found_again()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for epoch in range(1, 41):
        optimiser.zero_grad()
        contrast.loss(epoch=epoch, step=0).backward()
        optimiser.step()
    assert max(before) < 0.1
    assert min(found_again()) > 0.4


def one_scenario_each(num_users: int = 8) -> Splits:
    """Every user is in one scenario alone, as where the scenario is a property of the user."""
    events = [
        Event(user, 2 + (user + time) % 6, user % 3, time * DAY, clicked=time % 2 == 0)
        for user in range(2, 2 + num_users)
        for time in range(9)
    ]
    return make_splits(
        events,
        valid_from_ms=6 * DAY,
        test_from_ms=8 * DAY,
        num_users=num_users,
        num_items=6,
        num_scenarios=3,
    )


def test_users_of_one_scenario_each_are_paired_with_another_one_or_left_out_as_asked() -> None:
    splits = one_scenario_each()
    contrast = stage(fresh(splits), splits)
    (users,), _ = contrast._plan(1)
    own = contrast._user_Q[::3][users.place_M] % 3
    assert (users.first_M == own).all()
    assert (users.second_M != own).all()
    assert len(set(users.second_M.tolist())) > 1
    skipped = stage(fresh(splits, user_pretrain="skip"), splits)
    (users,), (items,) = skipped._plan(1)
    assert len(users.place_M) == 0
    assert len(items.place_M) == 6
    assert torch.isfinite(skipped.loss(epoch=1, step=0))


def test_a_log_in_which_nothing_is_in_two_scenarios_says_so_before_training() -> None:
    events = [Event(2 + n % 6, 2 + n % 6, n % 2, n * DAY // 6, clicked=True) for n in range(60)]
    splits = make_splits(
        events, valid_from_ms=6 * DAY, test_from_ms=8 * DAY, num_users=6, num_items=6
    )
    with pytest.raises(
        ConfigError,
        match=r"among the 36 impressions of the training window no user and no item",
    ) as it:
        stage(fresh(splits, user_pretrain="skip"), splits)
    assert "model.pretrain: false" in it.value.hint
    assert fresh(splits, pretrain=False).pretraining(splits, seed=0, device=CPU) is None


def test_without_impressions_there_is_nothing_to_pretrain_on() -> None:
    splits = random_splits()
    columns = {name: values[:0] for name, values in vars(splits.impressions).items()}
    empty = replace(splits, impressions=replace(splits.impressions, **columns))
    with pytest.raises(ConfigError, match="among the 0 impressions"):
        stage(fresh(splits), empty)


def test_pretraining_has_no_weights_of_its_own_and_leaves_the_vectors_formula_alone() -> None:
    splits = random_splits()
    with_it, without = fresh(splits), fresh(splits, pretrain=False)
    users = train_users(splits)
    assert torch.equal(item_vectors(with_it, splits), item_vectors(without, splits))
    assert torch.equal(
        with_it.encode_users(users).vectors_BG, without.encode_users(users).vectors_BG
    )
    assert SassConfig().pretrain_epochs == 5
