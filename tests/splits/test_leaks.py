"""Each kind of leak, planted, is found and counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perscen.data.leaks import LeakFound, check_no_leak
from perscen.data.splits import Splits
from perscen.data.windows import Windows
from perscen.manifests import Window
from tests.splits.clean_logs import config_of, day, some_rows, split_dir, write_clean_log


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> tuple[Splits, Windows]:
    directory = write_clean_log(tmp_path_factory.mktemp("leaks") / "clean", some_rows())
    return split_dir(directory, config_of(max_seq_len=4), logical_date=day(5))


def test_honest_splits_pass(clean):
    check_no_leak(*clean)


def shifted(columns, name: str, by: int, rows=slice(None)):
    """Return the columns with one of them shifted at some rows."""
    column = np.array(getattr(columns, name))
    column[rows] += by
    return replace(columns, **{name: column})


def with_last_event_inside(splits: Splits) -> Splits:
    """One training history ends one click later: with the row's own click."""
    return replace(splits, train_slices=shifted(splits.train_slices, "end", 1, [-1]))


def with_other_users_click(splits: Splits) -> Splits:
    offsets = splits.histories.user_offsets
    first = int(np.argmax(splits.test.user > splits.test.user.min()))
    start = np.array(splits.test_slices.start)
    end = np.array(splits.test_slices.end)
    start[first] = offsets[splits.test.user[first]] - 1
    end[first] = start[first] + 2
    return replace(splits, test_slices=replace(splits.test_slices, start=start, end=end))


def with_other_scenario(splits: Splits) -> Splits:
    scenario = 1 - splits.valid.scenario
    return replace(splits, valid=replace(splits.valid, scenario=scenario))


def with_later_training_row(splits: Splits) -> Splits:
    return replace(splits, train=shifted(splits.train, "time_ms", 86_400_000, [-1, -2]))


def with_unsorted_history(splits: Splits) -> Splits:
    h = splits.histories
    return replace(splits, histories=shifted(h, "times_ms", 10**9, [int(h.user_offsets[3])]))


def with_foreign_relevant_item(splits: Splits) -> Splits:
    relevant = np.array(splits.test.relevant)
    relevant[0] = 7 if relevant[0] != 7 else 6
    return replace(splits, test=replace(splits.test, relevant=relevant))


def with_longer_history(splits: Splits) -> Splits:
    cut = splits.test_slices
    return replace(splits, test_slices=shifted(cut, "start", -1, [int(np.argmax(cut.end))]))


def with_untrained_user_in_vocabulary(splits: Splits) -> Splits:
    known = [*splits.vocabularies["user/user_id"], "tomorrow"]
    return replace(splits, vocabularies={**splits.vocabularies, "user/user_id": known})


def with_fewer_candidates(splits: Splits) -> Splits:
    fewer = splits.vocabularies["items"][:-1]
    return replace(splits, vocabularies={**splits.vocabularies, "items": fewer})


def with_later_impressions(splits: Splits) -> Splits:
    kept = shifted(splits.impressions, "time_ms", 10 * 86_400_000, [0])
    return replace(splits, impressions=kept)


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (with_last_event_inside, "training histories that reach the event: 1"),
        (with_other_users_click, "test histories of another user or scenario: 1"),
        (with_other_scenario, "validation scenario histories of another user or scenario: "),
        (with_later_training_row, "training rows outside the window: 2"),
        (with_unsorted_history, "histories out of order: 1"),
        (with_foreign_relevant_item, "test clicks of another window: "),
        (with_longer_history, "test histories too long: 1"),
        (with_untrained_user_in_vocabulary, "user vocabulary entries without a training row: 1"),
        (with_fewer_candidates, "candidates that are not the catalogue: 1"),
        (with_later_impressions, "impressions outside the training window: 1"),
    ],
)
def test_a_planted_leak_is_found(clean, plant, message):
    splits, windows = clean
    with pytest.raises(LeakFound, match=message):
        check_no_leak(plant(splits), windows)


def test_overlapping_windows_are_found(clean):
    splits, windows = clean
    overlapping = replace(windows, valid=Window(first=day(3), last=day(4)))
    with pytest.raises(LeakFound, match="windows that overlap: 1"):
        check_no_leak(splits, overlapping)
