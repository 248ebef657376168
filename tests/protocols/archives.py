"""Whole archives in the official form, small, and Table 1 counted from their CSV files by loops."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from perscen.data import alimama, kuairand
from tests.contracts.logs import impression, item, midnight_ms, user

KUAIRAND_DAYS = [date(2022, 4, 8) + timedelta(days=n) for n in range(31)]
ALIMAMA_DAYS = [date(2017, 5, 6) + timedelta(days=n) for n in range(8)]
_PER_DAY = 60


def write_kuairand(folder: Path) -> Path:
    """Write the five files: five tabs, users of one click, repeats, dates later than the time."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = defaultdict(list)
    for of in KUAIRAND_DAYS:
        for number in range(_PER_DAY):
            # Everyone but user 0 comes now and then; users from 40 on come once.
            who = 40 + KUAIRAND_DAYS.index(of) if number == 0 else int(rng.integers(1, 30))
            row = impression(
                of,
                number,
                user_id=str(who),
                video_id=str(rng.integers(12)),
                tab=str(min(int(rng.geometric(0.5)) - 1, 4)),
                is_click=str(int(number == 0 or rng.random() < 0.6)),
                time_ms=str(midnight_ms(of) + number * 1000 - (3_600_000 if number == 5 else 0)),
            )
            part = "4_08_to_4_21" if of < date(2022, 4, 22) else "4_22_to_5_08"
            rows[f"log_standard_{part}_pure.csv"] += [row, row] if number == 7 else [row]
            if part == "4_22_to_5_08" and number < 20:
                rows["log_random_4_22_to_5_08_pure.csv"].append({**row, "is_rand": "1"})
    for name, log in rows.items():
        _write(folder / name, kuairand.LOG_COLUMNS, log)
    _write(folder / kuairand.USERS_FILE, kuairand.USER_COLUMNS, (user(n) for n in range(75)))
    _write(folder / kuairand.ITEMS_FILE, kuairand.ITEM_COLUMNS, (item(n) for n in range(14)))
    return folder


def write_alimama(folder: Path) -> Path:
    """Write the three files: four tiers, a third of the users without one or without a profile."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    log = []
    for of in ALIMAMA_DAYS:
        for number in range(_PER_DAY):
            clicked = int(rng.random() < 0.5)
            log.append(
                {
                    "user": str(int(rng.integers(60))),
                    "time_stamp": str(midnight_ms(of) // 1000 + number * 60),
                    "adgroup_id": str(int(rng.integers(20))),
                    "pid": "430548_1007",
                    "nonclk": str(1 - clicked),
                    "clk": str(clicked),
                }
            )
    order = rng.permutation(len(log))  # the archive is in no order of time
    _write(folder / "raw_sample.csv", alimama.LOG_COLUMNS, (log[n] for n in order))
    tiers = ["2", "3", "4", "1", "", "2"]
    profiles = (
        {
            **dict.fromkeys(alimama.USER_COLUMNS, "1"),
            "userid": str(n),
            "new_user_class_level": tiers[n % 6],
        }
        for n in range(50)
    )
    # As distributed: the last header of the profiles has a trailing blank.
    headers = [*alimama.USER_COLUMNS[:-1], f"{alimama.USER_COLUMNS[-1]} "]
    _write(folder / "user_profile.csv", alimama.USER_COLUMNS, profiles, headers=headers)
    ads = ({**dict.fromkeys(alimama.ITEM_COLUMNS, "1"), "adgroup_id": str(n)} for n in range(25))
    _write(folder / "ad_feature.csv", alimama.ITEM_COLUMNS, ads)
    return folder


def clicks_of_kuairand(folder: Path, *, num_scenarios: int = 4) -> Counter[tuple[str, str]]:
    """Return the clicks that are kept, by (user, tab)."""
    rows = {tuple(row.items()) for path in folder.glob("log_standard*") for row in _read(path)}
    clicks = [dict(row) for row in rows if dict(row)["is_click"] == "1"]
    in_train = Counter(row["tab"] for row in clicks if row["date"] <= "20220421")
    tabs = sorted(in_train, key=lambda tab: (-in_train[tab], tab))[:num_scenarios]
    return _of_active(Counter((row["user_id"], row["tab"]) for row in clicks if row["tab"] in tabs))


def clicks_of_alimama(folder: Path) -> Counter[tuple[str, str]]:
    """Return the clicks that are kept, by (user, tier)."""
    column = f"{alimama.USER_COLUMNS[-1]} "
    tiers = {row["userid"]: row[column] for row in _read(folder / "user_profile.csv")}
    rows = {tuple(row.items()) for row in _read(folder / "raw_sample.csv")}
    clicks = [dict(row) for row in rows if dict(row)["clk"] == "1"]
    return _of_active(
        Counter((row["user"], tiers[row["user"]]) for row in clicks if tiers.get(row["user"]))
    )


def _of_active(clicks: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    per_user: Counter[str] = Counter()
    for (who, _), num in clicks.items():
        per_user[who] += num
    return Counter({key: num for key, num in clicks.items() if per_user[key[0]] >= 2})


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, str | None]],
    *,
    headers: Sequence[str] | None = None,
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headers or columns)
        writer.writerows([row[name] or "" for name in columns] for row in rows)
