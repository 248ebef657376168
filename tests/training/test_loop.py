"""The loop: early stopping, determinism, divergence."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from perscen.data.splits import Splits
from perscen.errors import ConfigError, TrainingDiverged
from perscen.models.config import M5Config
from perscen.models.m5 import M5
from perscen.schema import FIRST_ROW
from perscen.training.device import torch_settings
from perscen.training.loop import train
from perscen.training.validation import Validator
from tests.factories import Event, make_splits, random_splits
from tests.training.towers import TinyTower, equal, quick, tiny, weights


@pytest.fixture(scope="module")
def splits() -> Splits:
    return random_splits()


@pytest.fixture(scope="module")
def sparse() -> Splits:
    """More items than clicks."""
    return random_splits(num_items=400)


def test_the_loss_falls_and_every_scenario_is_measured_each_epoch(splits):
    trained = train(tiny(splits), splits, quick(max_epochs=6))
    assert [record.epoch for record in trained.epochs] == [1, 2, 3, 4, 5, 6]
    assert trained.epochs[-1].task_loss < trained.epochs[0].task_loss
    for record in trained.epochs:
        assert record.recall.keys() == record.code_usage.keys() == {"s0", "s1"}
        assert record.macro_recall == pytest.approx(sum(record.recall.values()) / 2)
        assert record.loss == pytest.approx(record.task_loss + record.auxiliary_loss)


def test_the_loss_of_a_model_with_codes_counts_with_their_weight_and_no_other_does(splits):
    record = train(tiny(splits), splits, quick(max_epochs=1, vq_weight=0.25)).epochs[0]
    assert record.loss == pytest.approx(record.task_loss + 0.25 * record.auxiliary_loss)
    masked = M5Config.model_validate({"widths": [8], "masked_items": {"weight": 2.0}})
    record = train(M5(splits.schema, masked), splits, quick(max_epochs=1, vq_weight=0)).epochs[0]
    assert record.auxiliary_loss > 0
    assert record.loss == pytest.approx(record.task_loss + record.auxiliary_loss)


def test_the_weights_of_the_best_epoch_are_kept(splits):
    model = tiny(splits)
    trained = train(model, splits, quick(max_epochs=12, patience=12, optim={"lr": 0.3}))
    best = max(trained.epochs, key=lambda record: record.macro_recall)
    assert trained.best == best
    assert best.epoch < len(trained.epochs), "the last epoch was best: this test shows nothing"
    again = Validator(splits, k=5, device=torch.device("cpu"))(model.eval())
    assert again.recall == best.recall
    assert again.code_counts == trained.code_counts
    short = tiny(splits)
    train(short, splits, quick(max_epochs=best.epoch, patience=12, optim={"lr": 0.3}))
    assert equal(weights(model), weights(short))


@pytest.mark.parametrize(
    ("min_epochs", "expected"), [(0, 3), (1, 3), (6.5, 9), (7, 9), (7.1, 10), (99, 20)]
)
@pytest.mark.parametrize("size", [16, 1000])
def test_patience_counts_epochs_since_the_best_and_only_after_min_steps(
    splits, size, min_epochs, expected
):
    an_epoch = -(-len(splits.train.item) // size)
    frozen = quick(
        batch={"size": size, "unit": "positives"},
        max_epochs=20,
        patience=2,
        min_steps=math.ceil(min_epochs * an_epoch),
        optim={"lr": 1e-12},
    )
    epochs = train(tiny(splits), splits, frozen).epochs
    assert [record.steps for record in epochs] == [an_epoch * (n + 1) for n in range(expected)]


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_others(splits):
    first, again, other = tiny(splits), tiny(splits), tiny(splits)
    train(first, splits, quick())
    torch.rand(7)  # whatever was drawn before does not matter
    train(again, splits, quick())
    train(other, splits, quick(seed=1))
    assert equal(weights(first), weights(again))
    assert not equal(weights(first), weights(other))


class _Breaks(TinyTower):
    """Its vectors in scenario 1 are not finite from the third step on."""

    calls = 0

    def encode_users(self, users):
        encoded = super().encode_users(users)
        if self.training:
            self.calls += 1
        if self.calls >= 3:
            encoded.vectors_BG[users.scenario_B == 1] *= torch.nan
        return encoded


def test_a_loss_that_is_not_finite_stops_before_the_optimiser_step(splits):
    config = quick(batch={"size": 1000, "unit": "positives"}, max_epochs=5)
    model = _Breaks(splits.schema)
    untouched: list[dict[str, torch.Tensor]] = []

    class Watcher:
        def step_done(self, *, epoch, step, num_steps):
            untouched.append(weights(model))

        def epoch_done(self, record):
            pass

    with pytest.raises(TrainingDiverged, match="loss is nan in epoch 3, step 1, scenario s1") as it:
        train(model, splits, config, watchers=[Watcher()])
    assert (it.value.epoch, it.value.step, it.value.scenario) == (3, 1, "s1")
    assert equal(weights(model), untouched[-1])


def test_vectors_that_are_not_finite_after_an_epoch_are_never_kept(sparse):
    model = tiny(sparse)
    with torch.no_grad():
        model.item.weight_RD[_never_clicked(sparse)] = torch.nan  # met by the validation alone
    with pytest.raises(TrainingDiverged, match="vectors of scenario s0 are not finite"):
        train(model, sparse, quick(loss="sampled_softmax", neg={"pool": "train_items"}))


def test_a_monitored_k_above_the_catalogue_is_a_config_error(splits):
    with pytest.raises(ConfigError, match=r"train.monitor_k is 31, but the catalogue has 30 items"):
        train(tiny(splits), splits, quick(monitor_k=31))


def test_windows_without_clicks_are_config_errors():
    events = [e for e in _clicks() if e.time_ms < 10]
    late = [e for e in _clicks() if e.time_ms >= 10]
    sizes = {"valid_from_ms": 10, "test_from_ms": 20, "num_users": 2, "num_items": 9}
    no_valid, no_train = make_splits(events, **sizes), make_splits(late, **sizes)
    with pytest.raises(ConfigError, match="validation window has no click"):
        train(tiny(no_valid), no_valid, quick())
    with pytest.raises(ConfigError, match="training window has no click"):
        train(tiny(no_train), no_train, quick())


def test_a_scenario_without_validation_users_is_left_out_of_the_mean():
    events = [e for e in _clicks() if e.time_ms < 10 or e.scenario == 0]
    splits = make_splits(events, valid_from_ms=10, test_from_ms=20, num_users=2, num_items=9)
    record = train(tiny(splits), splits, quick(max_epochs=1)).best
    assert record.recall.keys() == {"s0"}
    assert record.macro_recall == record.recall["s0"]


def test_cuda_is_refused_by_name_where_there_is_none(splits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"train.device is cuda"):
        train(tiny(splits), splits, quick(device="cuda"))


def test_torch_is_left_as_it_was_found():
    def state():
        strict = torch.are_deterministic_algorithms_enabled()
        return torch.get_num_threads(), strict, 2.0**-1074 > 0

    before = state()
    assert before[1:] == (False, True)
    with torch_settings(quick(num_threads=1)):
        assert state() == (1, True, False)
    assert state() == before


def test_reduced_precision_trains_and_logs_an_event_per_epoch(splits, caplog):
    with caplog.at_level(logging.INFO, logger="perscen.training.loop"):
        trained = train(tiny(splits), splits, quick(amp=True, max_epochs=2))
    assert trained.epochs[1].loss < trained.epochs[0].loss
    events = [r for r in caplog.records if r.getMessage() == "epoch finished"]
    assert [event.epoch for event in events] == [1, 2]


@pytest.mark.parametrize("decoupled", [False, True])
def test_lazy_adam_leaves_rows_outside_the_batches_alone(sparse, decoupled):
    model = tiny(sparse)
    before = weights(model)
    optim = {"lr": 0.05, "sparse_embeddings": True, "weight_decay": 0.1, "decoupled": decoupled}
    trained = train(model, sparse, quick(optim=optim, neg={"n": 4, "pool": "train_items"}))
    untouched = _never_clicked(sparse)
    after = weights(model)
    assert torch.equal(after["item.weight_RD"][untouched], before["item.weight_RD"][untouched])
    assert not torch.equal(after["item.weight_RD"], before["item.weight_RD"])
    assert trained.epochs[-1].loss < trained.epochs[0].loss


def _never_clicked(splits: Splits) -> list[int]:
    rows = range(FIRST_ROW, splits.schema.num_item_rows)
    return sorted(set(rows) - set(splits.histories.items.tolist()))


def _clicks() -> list[Event]:
    return [
        Event(user, 2 + (time + scenario) % 9, scenario, time)
        for user in (2, 3)
        for scenario in (0, 1)
        for time in range(15)
    ]
