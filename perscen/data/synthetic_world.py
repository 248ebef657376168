"""A small world whose truth is known: groups of users, genres of items, and who clicks what where.

Letters: U users, G groups, S scenarios, V items, C genres, M sessions, N impressions.

A group likes some genres everywhere and others only in one scenario. A scenario shows items by its
own popularity, tilted towards what the group likes there; shown items are clicked the more, the
more their genre is liked. The group is partly visible in two user columns; clicks tell the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SCENARIOS: Final = ("1", "4", "2", "0")
CLICK_SHARES: Final = (0.84, 0.09, 0.04, 0.03)
CLICK_RATES: Final = (0.55, 0.60, 0.50, 0.15)
"""Share of a scenario's impressions that are clicked."""
NUM_DAYS: Final = 14
NUM_GROUPS: Final = 8
NUM_GENRES: Final = 24
CLICKS_PER_USER: Final = 20
DAY_MS: Final = 86_400_000
FIRST_DAY: Final = np.datetime64("2022-04-22")
FIRST_MS: Final = int(FIRST_DAY.astype("datetime64[ms]").astype(np.int64)) - 8 * 3_600_000
"""Beijing midnight of the first day, as Unix time."""

_SESSION_LENGTHS: Final = (8.0, 4.0, 2.5, 5.0)
_POPULARITY_EXPONENT: Final = 0.6
_SHARED_TASTE: Final = 2.2
_SCENARIO_TASTE: Final = 2.6
_NEW_USERS: Final = 0.05
"""Share of users whose first day lies in the second half."""
_DAY_WEIGHTS: Final = (1.0, 1.15, 1.1, 1.0, 0.95, 0.95, 1.0)
_HOUR_WEIGHTS: Final = (
    *(2, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6),
    *(7, 6, 5, 5, 5, 6, 7, 8, 9, 9, 8, 5),
)


@dataclass(frozen=True)
class World:
    """What is true of the users and the items.

    Attributes:
        group_U: Each user's group.
        activity_U: Each user's share of all sessions.
        first_day_U: First day a user is seen.
        genre_V: Each item's genre.
        duration_V: Each video's length in milliseconds.
        shown_GSV: Chance that an impression of the group in the scenario shows the item.
        click_GSV: Chance that the group clicks the item when it is shown there.
    """

    group_U: Ints
    activity_U: Floats
    first_day_U: Ints
    genre_V: Ints
    duration_V: Ints
    shown_GSV: Floats
    click_GSV: Floats

    @property
    def affinity_GSV(self) -> Floats:
        """Chance that a click of the group in the scenario falls on the item; sums to 1 over V."""
        clicked_GSV = self.shown_GSV * self.click_GSV
        share_GSV: Floats = clicked_GSV / clicked_GSV.sum(axis=-1, keepdims=True)
        return share_GSV


@dataclass(frozen=True)
class Impressions:
    """Impressions by rising time; no two share a ``time_ms``."""

    user_N: Ints
    item_N: Ints
    scenario_N: Ints
    day_N: Ints
    time_ms_N: Ints
    clicked_N: NDArray[np.bool_]
    play_ms_N: Ints


def make_world(rng: np.random.Generator, *, num_users: int, num_items: int) -> World:
    """Return a world drawn from ``rng``."""
    genre_V = rng.permutation(np.arange(num_items) % NUM_GENRES)
    taste_GSC = _tastes(rng)
    popularity_SV = _popularity(rng, num_items)
    taste_GSV = taste_GSC[:, :, genre_V]
    shown_GSV = popularity_SV * np.exp(1.1 * taste_GSV)
    shown_GSV /= shown_GSV.sum(axis=-1, keepdims=True)
    click_GSV = np.clip(np.exp(0.15 * taste_GSV), None, 1.6)
    rate_GS1 = (shown_GSV * click_GSV).sum(axis=-1, keepdims=True)
    click_GSV *= np.array(CLICK_RATES)[:, None] / rate_GS1
    first_day_U = np.where(
        rng.random(num_users) < _NEW_USERS, rng.integers(NUM_DAYS // 2, NUM_DAYS, num_users), 0
    )
    activity_U = rng.lognormal(0.0, 0.8, num_users) * (NUM_DAYS - first_day_U)
    return World(
        group_U=rng.permutation(np.arange(num_users) % NUM_GROUPS),
        activity_U=activity_U / activity_U.sum(),
        first_day_U=first_day_U,
        genre_V=genre_V,
        duration_V=rng.lognormal(10.6, 0.8, num_items).clip(3_000, 600_000).astype(np.int64),
        shown_GSV=shown_GSV,
        click_GSV=np.clip(click_GSV, 0.0, 0.98),
    )


def make_impressions(rng: np.random.Generator, world: World) -> Impressions:
    """Return what was shown and clicked in the world over the days, session by session."""
    user_M, scenario_M, day_M, length_M = _sessions(rng, world)
    session_N = np.repeat(np.arange(len(user_M)), length_M)
    user_N, scenario_N = user_M[session_N], scenario_M[session_N]
    group_N = world.group_U[user_N]
    item_N = _draw_items(rng, world.shown_GSV, group_N * len(SCENARIOS) + scenario_N)
    chance_N = world.click_GSV[group_N, scenario_N, item_N]
    clicked_N = rng.random(len(item_N)) < chance_N
    watched_N = rng.beta(np.where(clicked_N, 2.0, 0.5), np.where(clicked_N, 1.5, 6.0))
    play_ms_N = (watched_N * world.duration_V[item_N]).astype(np.int64)

    step_ms_N = np.minimum(play_ms_N, 60_000) + rng.integers(800, 6_000, len(item_N))
    before_ms_N = np.cumsum(step_ms_N) - step_ms_N
    starts_M = np.cumsum(length_M) - length_M
    offset_ms_N = before_ms_N - np.repeat(before_ms_N[starts_M], length_M)
    start_ms_M = _start_of_day_ms(rng, np.add.reduceat(step_ms_N, starts_M))
    time_ms_N = FIRST_MS + day_M[session_N] * DAY_MS + start_ms_M[session_N] + offset_ms_N

    order = np.argsort(time_ms_N, kind="stable")
    # Every time once: a row that would share its millisecond moves on by as many as it must.
    rank_N = np.arange(len(order))
    time_ms_N = (np.maximum.accumulate(time_ms_N[order] - rank_N) + rank_N).astype(np.int64)
    return Impressions(
        user_N=user_N[order],
        item_N=item_N[order],
        scenario_N=scenario_N[order],
        day_N=(time_ms_N - FIRST_MS) // DAY_MS,
        time_ms_N=time_ms_N,
        clicked_N=clicked_N[order],
        play_ms_N=play_ms_N[order],
    )


def _tastes(rng: np.random.Generator) -> Floats:
    taste_GSC = rng.normal(0.0, 0.15, (NUM_GROUPS, len(SCENARIOS), NUM_GENRES))
    for group in range(NUM_GROUPS):
        genres = rng.permutation(NUM_GENRES)
        taste_GSC[group, :, genres[:2]] += _SHARED_TASTE
        for scenario in range(len(SCENARIOS)):
            own = genres[2 + 2 * scenario : 4 + 2 * scenario]
            taste_GSC[group, scenario, own] += _SCENARIO_TASTE
    return taste_GSC


def _popularity(rng: np.random.Generator, num_items: int) -> Floats:
    """Return Zipf-like popularity ``[S, V]``: scenarios agree on part of the order."""
    quality_V = rng.normal(size=num_items)
    score_SV = 0.6 * quality_V + 0.8 * rng.normal(size=(len(SCENARIOS), num_items))
    rank_SV = np.argsort(np.argsort(-score_SV, axis=-1), axis=-1)
    popularity_SV: Floats = np.power(rank_SV + 5.0, -_POPULARITY_EXPONENT)
    return popularity_SV


def _sessions(rng: np.random.Generator, world: World) -> tuple[Ints, Ints, Ints, Ints]:
    """Return user, scenario, day and number of impressions of each session."""
    num_clicks = CLICKS_PER_USER * len(world.group_U) * np.array(CLICK_SHARES)
    counts_S = np.ceil(num_clicks / (np.array(CLICK_RATES) * np.array(_SESSION_LENGTHS)))
    scenario_M = np.repeat(np.arange(len(SCENARIOS)), counts_S.astype(np.int64))
    length_M = rng.geometric(1 / np.array(_SESSION_LENGTHS)[scenario_M]).clip(max=60)
    user_M = rng.choice(len(world.group_U), size=len(scenario_M), p=world.activity_U)
    weights = np.resize(_DAY_WEIGHTS, NUM_DAYS)
    day_M = rng.choice(NUM_DAYS, size=len(scenario_M), p=weights / weights.sum())
    first_M = world.first_day_U[user_M]
    late_M = first_M + rng.integers(0, NUM_DAYS - first_M)
    return user_M, scenario_M, np.where(day_M < first_M, late_M, day_M), length_M


def _start_of_day_ms(rng: np.random.Generator, length_ms_M: Ints) -> Ints:
    """Return when in the day each session starts; it ends on the day it began."""
    weights = np.array(_HOUR_WEIGHTS, dtype=np.float64)
    hour_M = rng.choice(24, size=len(length_ms_M), p=weights / weights.sum())
    start_M = hour_M * 3_600_000 + rng.integers(0, 3_600_000, len(length_ms_M))
    # A second to spare, since rows with equal times move on by milliseconds.
    started: Ints = np.minimum(start_M, DAY_MS - 1_000 - length_ms_M)
    return started


def _draw_items(rng: np.random.Generator, shown_GSV: Floats, cell_N: Ints) -> Ints:
    """Draw an item per impression from its cell (group × scenario), all cells in one search."""
    num_items = shown_GSV.shape[-1]
    cumulated: NDArray[np.floating] = np.cumsum(shown_GSV.reshape(-1, num_items), axis=-1)
    cumulated /= cumulated[:, -1:]
    edges = (cumulated + np.arange(len(cumulated))[:, None]).ravel()
    drawn = np.searchsorted(edges, cell_N + rng.random(len(cell_N)), side="right")
    item_N: Ints = np.minimum(drawn - cell_N * num_items, num_items - 1)
    return item_N
