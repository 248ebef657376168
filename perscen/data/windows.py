"""The three windows of a run: closed ranges of local days, in order, without overlap."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count, islice, pairwise
from typing import Final

from perscen.config import SplitConfig
from perscen.errors import ConfigError
from perscen.manifests import Window

DAY_MS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1)


def day_start_ms(day: date, utc_offset_hours: int) -> int:
    """Return when a local day begins, in milliseconds since 1970 (UTC)."""
    return (day - _EPOCH).days * DAY_MS - utc_offset_hours * 3_600_000


@dataclass(frozen=True)
class Windows:
    """Training, validation and test days, and the time zone in which a day begins."""

    train: Window
    valid: Window
    test: Window
    utc_offset_hours: int

    def items(self) -> Iterator[tuple[str, Window]]:
        """Yield name and window, in order of time."""
        yield from (("train", self.train), ("valid", self.valid), ("test", self.test))

    def span_ms(self, name: str) -> tuple[int, int]:
        """Return a window's first millisecond and the first one after it."""
        window: Window = getattr(self, name)
        after = window.last + timedelta(days=1)
        return (
            day_start_ms(window.first, self.utc_offset_hours),
            day_start_ms(after, self.utc_offset_hours),
        )

    def days(self, name: str) -> list[date]:
        """Return a window's days."""
        window: Window = getattr(self, name)
        length = (window.last - window.first).days + 1
        return [window.first + timedelta(days=n) for n in range(length)]

    def days_without_rows(
        self, days: Sequence[date], excluded: Mapping[date, str]
    ) -> dict[str, dict[date, str]]:
        """Return each window's days that the clean log lacks, with the reason, by window."""
        lacking = {
            name: {day: excluded.get(day, "no rows") for day in self.days(name) if day not in days}
            for name, _ in self.items()
        }
        return {name: found for name, found in lacking.items() if found}


def windows_of(
    config: SplitConfig,
    *,
    logical_date: date,
    utc_offset_hours: int,
    skip: Collection[date] = frozenset(),
) -> Windows:
    """Return the windows the settings ask for; the last day of the test window is the logical date.

    Args:
        config: Windows given, or counted back.
        logical_date: The run's day.
        utc_offset_hours: Time zone in which a day begins.
        skip: Days that counting back passes over, because their rows are missing or broke the
            contract: a bad day must not leave the runs after it without a validation window.

    Raises:
        ConfigError: A window ends before it begins, overlaps the next or comes after it, or the
            test window does not end on the logical date.
    """
    if config.train is not None and config.valid is not None and config.test is not None:
        windows = Windows(
            train=_window("train", config.train),
            valid=_window("valid", config.valid),
            test=_window("test", config.test),
            utc_offset_hours=utc_offset_hours,
        )
    else:
        test = _counted_back(logical_date, config.test_days, skip)
        valid = _counted_back(test.first - timedelta(days=1), config.valid_days, skip)
        train = _counted_back(valid.first - timedelta(days=1), config.train_days, skip)
        windows = Windows(train, valid, test, utc_offset_hours)
    ordered = list(windows.items())
    for (name, window), (later_name, later) in pairwise(ordered):
        if later.first <= window.last:
            raise ConfigError(
                f"split.{name} ends on {window.last}, but split.{later_name} begins on "
                f"{later.first}; {name} must end before {later_name} begins",
                hint="windows are closed ranges of days: train, then valid, then test",
            )
    if windows.test.last != logical_date:
        raise ConfigError(
            f"split.test ends on {windows.test.last}, but the logical date is {logical_date}; "
            "they must be the same day",
            hint="run for that date, or count the windows back with train_days and the like",
        )
    return windows


def _window(name: str, days: tuple[date, date]) -> Window:
    first, last = days
    if last < first:
        raise ConfigError(
            f"split.{name} is empty: it begins on {first} and ends on {last}",
            hint=f"give split.{name} as [first, last]",
        )
    return Window(first=first, last=last)


def _counted_back(last: date, days: int | None, skip: Collection[date]) -> Window:
    assert days is not None  # SplitConfig lets no mix of the two ways pass
    there = (day for n in count() if (day := last - timedelta(days=n)) not in skip)
    counted = list(islice(there, days))
    return Window(first=counted[-1], last=counted[0])
