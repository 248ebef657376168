"""Interrupted anywhere, a training ends where an undisturbed one does."""

from __future__ import annotations

import pytest

from perscen.errors import Preempted
from perscen.training.loop import train
from tests.factories import random_splits
from tests.training.towers import checkpoint, equal, quick, tiny, weights


class _After:
    """Says stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture(scope="module")
def splits():
    return random_splits()


@pytest.fixture(scope="module")
def undisturbed(splits):
    model = tiny(splits)
    return train(model, splits, quick()), weights(model)


@pytest.mark.medium
@pytest.mark.parametrize("resample", ["step", "epoch", "once"])
@pytest.mark.parametrize("steps", [1, 7, 9, 13])
def test_a_resumed_training_equals_an_undisturbed_one_to_the_bit(splits, tmp_path, steps, resample):
    config = quick(neg={"n": 4, "resample": resample})
    whole = tiny(splits)
    expected = train(whole, splits, config)
    with pytest.raises(Preempted, match="a checkpoint was written"):
        train(tiny(splits), splits, config, checkpoint=checkpoint(tmp_path), stop=_After(steps))
    model = tiny(splits, seed=9)  # where the new process starts from does not matter
    resumed = train(model, splits, config, checkpoint=checkpoint(tmp_path))
    assert resumed == expected
    assert equal(weights(model), weights(whole))


def test_interruptions_may_follow_each_other(splits, tmp_path, undisturbed):
    for _ in range(4):
        with pytest.raises(Preempted):
            train(tiny(splits), splits, quick(), checkpoint=checkpoint(tmp_path), stop=_After(3))
    model = tiny(splits)
    assert train(model, splits, quick(), checkpoint=checkpoint(tmp_path)) == undisturbed[0]
    assert equal(weights(model), undisturbed[1])


def test_a_killed_training_goes_on_from_its_last_timed_checkpoint(splits, tmp_path, undisturbed):
    class Killed(BaseException):
        pass

    class Killer:
        def step_done(self, *, epoch, step, num_steps):
            if (epoch, step) == (2, 3):
                raise Killed

        def epoch_done(self, record):
            pass

    always = checkpoint(tmp_path, every_s=1e-9)
    with pytest.raises(Killed):
        train(tiny(splits), splits, quick(), checkpoint=always, watchers=[Killer()])
    told = []

    class Listener(Killer):
        def step_done(self, *, epoch, step, num_steps):
            told.append((epoch, step))

        def epoch_done(self, record):
            told.append(record.epoch)

    model = tiny(splits)
    train(model, splits, quick(), checkpoint=checkpoint(tmp_path), watchers=[Listener()])
    assert told[:2] == [1, (2, 3)], "past epochs are told again, past steps are not run again"
    assert equal(weights(model), undisturbed[1])


@pytest.mark.parametrize("spoilt", ["foreign", "cut short", "changed", "nonsense", "empty"])
def test_a_checkpoint_that_is_not_ours_or_not_whole_is_ignored(
    splits, tmp_path, undisturbed, spoilt
):
    fingerprint = "other" if spoilt == "foreign" else "same"
    with pytest.raises(Preempted):
        train(
            tiny(splits, seed=5),
            splits,
            quick(),
            checkpoint=checkpoint(tmp_path, fingerprint=fingerprint),
            stop=_After(2),
        )
    path = tmp_path / "checkpoint.pt"
    if spoilt == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif spoilt == "changed":
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif spoilt in {"nonsense", "empty"}:
        path.write_bytes(b"no checkpoint" if spoilt == "nonsense" else b"")
    model = tiny(splits)
    train(model, splits, quick(), checkpoint=checkpoint(tmp_path))
    assert equal(weights(model), undisturbed[1])


def test_ctrl_c_leaves_no_half_written_checkpoint(splits, tmp_path):
    class Impatient:
        def step_done(self, *, epoch, step, num_steps):
            raise KeyboardInterrupt

        def epoch_done(self, record):
            pass

    with pytest.raises(KeyboardInterrupt):
        train(
            tiny(splits), splits, quick(), checkpoint=checkpoint(tmp_path), watchers=[Impatient()]
        )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    kept = checkpoint(tmp_path)
    kept.save({"step": 1})
    (tmp_path / "checkpoint.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"):
        kept.save({"step": 2})
    assert kept.load() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
