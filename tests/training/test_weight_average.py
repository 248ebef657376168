"""The running mean of the weights is what is validated and kept."""

from __future__ import annotations

import pytest
import torch

from perscen.errors import Preempted
from perscen.training.loop import train
from tests.factories import random_splits
from tests.training.test_resume import _After
from tests.training.towers import checkpoint, equal, quick, tiny, weights

AVERAGED = {"weight_average": 0.9}


@pytest.fixture(scope="module")
def splits():
    return random_splits()


def test_the_kept_weights_are_the_running_mean_of_those_after_each_step(splits):
    class Steps:
        def __init__(self, model):
            self.model, self.seen = model, []

        def step_done(self, **_):
            self.seen.append(weights(self.model))

        def epoch_done(self, record): ...

    model = tiny(splits)
    steps = Steps(model)
    trained = train(model, splits, quick(max_epochs=1, optim=AVERAGED), watchers=[steps])
    mean = steps.seen[0]
    for after in steps.seen[1:]:
        mean = {name: 0.9 * mean[name] + 0.1 * after[name] for name in mean}
    assert len(trained.epochs) == 1
    assert len(steps.seen) > 2
    kept = weights(model)
    for name, weight in mean.items():
        torch.testing.assert_close(kept[name], weight)


def test_a_resumed_training_keeps_the_same_mean(splits, tmp_path):
    config = quick(optim=AVERAGED)
    whole = tiny(splits)
    expected = train(whole, splits, config)
    with pytest.raises(Preempted):
        train(tiny(splits), splits, config, checkpoint=checkpoint(tmp_path), stop=_After(7))
    model = tiny(splits, seed=9)
    assert train(model, splits, config, checkpoint=checkpoint(tmp_path)) == expected
    assert equal(weights(model), weights(whole))
