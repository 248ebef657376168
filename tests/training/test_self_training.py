"""Clicks of other scenarios as positives: which they are, when, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from perscen.config import ShownConfig, parse_config
from perscen.data.splits import Splits
from perscen.errors import ConfigError, Preempted
from perscen.models.config import AdinConfig, DssmConfig
from perscen.models.dssm import Dssm
from perscen.models.families import make_model
from perscen.models.two_tower import TwoTower
from perscen.training.loop import train
from perscen.training.losses import Objective
from perscen.training.rows import TrainingRows
from perscen.training.self_training import SelfTraining
from tests.factories import random_splits
from tests.training.test_resume import _After
from tests.training.towers import checkpoint, equal, quick, tiny, weights

SELF = {"share": 0.5, "warmup": 1, "ramp": 2}


@pytest.fixture(scope="module")
def splits() -> Splits:
    return random_splits()


def test_candidates_are_a_users_clicks_in_every_scenario_he_did_not_click_them_in(
    splits: Splits,
) -> None:
    rows = TrainingRows.of(splits, ShownConfig(weight=0.5), candidates=True)
    train = splits.train
    clicks = list(zip(train.user, train.item, train.scenario, train.time_ms, strict=True))
    expected = {
        (user, item, scenario, time)
        for user, item, own, time in clicks
        for scenario in range(len(splits.schema.scenarios))
        if scenario != own
        and not ((train.user == user) & (train.item == item) & (train.scenario == scenario)).any()
    }
    found = [
        (rows.seen.user[row], rows.seen.item[row], rows.seen.scenario[row], rows.seen.time_ms[row])
        for row in rows.candidates
    ]
    assert set(found) == expected
    assert len(found) == len(expected) > 0
    assert not rows.seen.clicked[rows.candidates].any()
    assert (rows.weight_E[rows.candidates] == 1).all()
    plain = TrainingRows.of(splits, ShownConfig(weight=0.5))
    assert np.array_equal(plain.seen.item, rows.met.item)
    assert not len(plain.candidates)


def test_a_candidate_has_the_past_of_the_scenario_it_lends_itself_to(splits: Splits) -> None:
    rows, past = TrainingRows.of(splits, ShownConfig(), candidates=True), splits.histories
    num_scenarios = len(splits.schema.scenarios)
    for row in rows.candidates:
        group = rows.seen.user[row] * num_scenarios + rows.seen.scenario[row]
        own = slice(past.spec_offsets[group], past.spec_offsets[group + 1])
        before = past.spec_times_ms[own] < rows.seen.time_ms[row]
        expected = past.spec_items[own][before][-splits.schema.max_seq_len :]
        found = past.spec_items[rows.slices.spec_start[row] : rows.slices.spec_end[row]]
        assert found.tolist() == expected.tolist()


def chooser(splits: Splits, model: TwoTower, **changes: Any) -> tuple[Objective, SelfTraining]:
    config = quick(self_training=SELF | changes)
    objective = Objective(model, splits, config, device=torch.device("cpu"))
    return objective, SelfTraining(objective, splits, config.self_training)


def test_the_share_grows_evenly_after_the_warm_up(splits: Splits) -> None:
    _, chosen = chooser(splits, tiny(splits), share=0.4, warmup=2, ramp=4)
    shares = [chosen.share(epoch) for epoch in range(1, 9)]
    assert shares == pytest.approx([0, 0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert not len(chosen.choose(tiny(splits), epoch=2))


def test_the_highest_scores_of_each_scenario_are_chosen(splits: Splits) -> None:
    model = tiny(splits)
    objective, chosen = chooser(splits, model)
    rows, candidates = objective.rows, objective.rows.candidates
    taken = chosen.choose(model, epoch=3)
    assert model.training, "it is left as it was"
    model.eval()
    with torch.no_grad():
        alone = [objective.scores(model, candidates[[place]]) for place in range(len(candidates))]
    score_K, scenario_K = torch.cat(alone).numpy(), rows.seen.scenario[candidates]
    for scenario in range(len(splits.schema.scenarios)):
        mine = scenario_K == scenario
        is_taken = np.isin(candidates[mine], taken)
        assert is_taken.sum() == mine.sum() // 2 > 0
        assert score_K[mine][is_taken].min() >= score_K[mine][~is_taken].max() - 1e-5


def test_a_rows_score_is_the_logit_that_training_gives_its_own_item(splits: Splits) -> None:
    config = quick(loss="full_softmax", self_training=SELF)
    settings = DssmConfig.model_validate({"emb": {"dim": 4}, "item_bias": "segments"})
    model = Dssm(splits.schema, settings)
    model.start_from(splits)
    model.eval()
    objective = Objective(model, splits, config, device=torch.device("cpu"))
    row = objective.rows.candidates[:1]
    logits, _ = objective._over_the_catalogue(row, row)
    own = objective.rows.seen.item[row[0]] - 2
    torch.testing.assert_close(objective.scores(model, row), logits[:, own])


def test_before_it_begins_the_training_is_what_it_was_and_after_it_learns_from_more(
    splits: Splits,
) -> None:
    without, late, early = tiny(splits), tiny(splits), tiny(splits)
    expected = train(without, splits, quick())
    told = train(late, splits, quick(self_training={"share": 0.5, "warmup": 3}))
    assert told == expected
    assert equal(weights(late), weights(without))
    steps: dict[int, int] = {}

    class Counts:
        def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
            steps[epoch] = num_steps

        def epoch_done(self, record: object) -> None: ...

    train(early, splits, quick(self_training=SELF), watchers=[Counts()])  # type: ignore[list-item]
    assert steps[1] < steps[2] < steps[3]


@pytest.mark.parametrize("settings", [{"item_bias": "segments"}, {}])
def test_popularity_and_samples_of_the_catalogue_count_what_happened(
    splits: Splits, settings: dict[str, Any]
) -> None:
    model = make_model(splits.schema, AdinConfig.model_validate(settings))
    model.start_from(splits)
    config = quick(loss="full_softmax", softmax_items=7)
    both = (
        config,
        config.model_copy(update={"self_training": quick(self_training=SELF).self_training}),
    )
    plain, lent = (Objective(model, splits, c, device=torch.device("cpu")) for c in both)
    assert len(lent.rows.weight_E) > len(plain.rows.weight_E)
    model.eval()
    rows = np.arange(9)
    torch.testing.assert_close(
        lent(rows, epoch=1, step=0).task_B, plain(rows, epoch=1, step=0).task_B
    )
    assert torch.isfinite(lent(lent.rows.candidates[:9], epoch=1, step=0).task_B).all()


@pytest.mark.medium
@pytest.mark.parametrize("optim", [{"lr": 0.05}, {"lr": 0.05, "weight_average": 0.9}])
def test_interrupted_in_the_middle_of_an_epoch_it_keeps_that_epochs_positives(
    splits: Splits, tmp_path: Any, optim: dict[str, float]
) -> None:
    config = quick(optim=optim, self_training=SELF)
    whole, ends = tiny(splits), []

    class Ends:
        def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
            ends.append((epoch, step, num_steps))

        def epoch_done(self, record: object) -> None: ...

    expected = train(whole, splits, config, watchers=[Ends()])  # type: ignore[list-item]
    of_second = [number for number, (epoch, _, _) in enumerate(ends, start=1) if epoch == 2]
    for steps in (of_second[0], of_second[len(of_second) // 2], of_second[-1]):
        folder = tmp_path / str(steps)
        with pytest.raises(Preempted):
            train(tiny(splits), splits, config, checkpoint=checkpoint(folder), stop=_After(steps))
        resumed = tiny(splits, seed=9)
        assert train(resumed, splits, config, checkpoint=checkpoint(folder)) == expected
        assert equal(weights(resumed), weights(whole))


def test_one_scenario_has_no_other_to_learn_from(splits: Splits) -> None:
    one = splits.schema.model_copy(update={"scenarios": ("1",)})
    of_1 = replace(splits.train, scenario=np.zeros_like(splits.train.scenario))
    alone = replace(splits, schema=one, train=of_1)
    rows = TrainingRows.of(alone, ShownConfig(), candidates=True)
    assert not len(rows.candidates)
    objective, _ = chooser(splits, tiny(splits))
    objective.rows = rows
    with pytest.raises(ConfigError, match=r"in another scenario \(there is one scenario\)"):
        SelfTraining(objective, alone, quick(self_training=SELF).self_training)


def test_models_of_one_scenario_each_are_refused_it() -> None:
    tree = {
        "run": {"logical_date": "2024-01-01"},
        "split": {"train_days": 1, "valid_days": 1, "test_days": 1},
        "model": {"family": "dssm", "form": "single"},
        "train": {"self_training": {"share": 0.1}},
    }
    with pytest.raises(ConfigError, match=r"self_training\.share has no meaning with model\.form"):
        parse_config(tree, origin="here")
