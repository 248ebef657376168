"""SASS's stage one: a user (an item) of one scenario is found again in another.

It reads all impressions of the training window, clicked or not, and nothing later: a user's history
is what he clicked in that window.

Letters: E users or items that were shown (something) in two scenarios, M those of one step, B those
of them that are this rank's, S scenarios, R table rows, G width of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from perscen.data.batches import ItemBatch, ItemSource, UserBatch, UserSource
from perscen.data.sequences import slices_before
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.config import SassConfig
from perscen.models.precision import full_precision
from perscen.models.ranks import gather_parts, num_ranks, share
from perscen.schema import FIRST_ROW
from perscen.seeding import generator

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Represents(Protocol):
    """A model whose towers' own vectors can be asked for."""

    def represent_users(self, users: UserBatch) -> Tensor:
        """Return ``[B, G]``."""

    def represent_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return ``[P, G]``."""


class Pairs(NamedTuple):
    """Users or items of one step, each with two scenarios."""

    place_M: Longs
    """Which of the E."""
    first_M: Longs
    second_M: Longs


def info_nce(first_BG: Tensor, second_BG: Tensor, *, num_rows: int, temperature: float) -> Tensor:
    """Return ``[B]``: InfoNCE of each row, as the mean of both directions, at least 0.

    A row's two vectors are to find each other, by their cosine, among all rows of the step; with
    one row there is nothing to tell apart, and the loss is 0.

    Args:
        first_BG: Vectors in one scenario; of several ranks this one's share.
        second_BG: Vectors of the same rows in another scenario.
        num_rows: M, rows of the step.
        temperature: What cosines are divided by.
    """
    with full_precision(first_BG):
        wide = torch.promote_types(first_BG.dtype, torch.float32)
        first_BG, second_BG = (F.normalize(v.to(wide), dim=1) for v in (first_BG, second_BG))
        target_B = torch.arange(num_rows, device=first_BG.device)[share(num_rows)]
        found = [
            F.cross_entropy(one_BG @ _of_all(other_BG).T / temperature, target_B, reduction="none")
            for one_BG, other_BG in ((first_BG, second_BG), (second_BG, first_BG))
        ]
    return (found[0] + found[1]) / 2


class ScenarioContrast:
    """The stage: its steps, and the loss of each.

    An epoch meets every user and every item that was shown in two scenarios once, in two scenarios
    drawn anew. Users are told apart from users and items from items, as many of each in every step.

    Args:
        model: Whose towers are trained.
        splits: The impressions, and the clicks that make the users' histories.
        config: Epochs, batch and temperature.
        seed: What is drawn follows from it, the epoch and the step.
        device: The model's.

    Raises:
        ConfigError: Nobody and nothing was shown in two scenarios.
    """

    def __init__(
        self,
        model: Represents,
        splits: Splits,
        config: SassConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._model, self._config = model, config
        self._seed, self._device = seed, device
        seen = splits.impressions
        num_scenarios = len(splits.schema.scenarios)
        user_RS = _shown_in(seen.user, seen.scenario, (len(splits.users.ids), num_scenarios))
        item_RS = _shown_in(seen.item, seen.scenario, (len(splits.items.ids), num_scenarios))
        # Where nobody is in two scenarios, each user's own one is paired with another at random.
        nobody = user_RS.sum(axis=1).max(initial=0) == 1
        least = 1 if nobody and config.user_pretrain == "counterfactual" else 2
        user_E = np.flatnonzero(user_RS.sum(axis=1) >= least)
        self._item_E = np.flatnonzero(item_RS.sum(axis=1) >= 2)
        if not len(user_E) and not len(self._item_E):
            raise ConfigError(
                f"model.pretrain: among the {len(seen.user):,} impressions of the training window "
                "no user and no item is in two scenarios: there is nothing to pre-train on",
                hint="set model.pretrain: false, or keep more scenarios (split.num_scenarios)",
            )
        self._known_users_ES, self._known_items_ES = user_RS[user_E], item_RS[self._item_E]
        self._users = UserSource(splits, device=device)
        self._items = ItemSource(splits.items, device=device)
        # One query per (user, scenario), as it stood when the training window closed.
        self._user_Q: Ints = np.repeat(user_E, num_scenarios).astype(np.int32)
        self._scenario_Q = np.tile(np.arange(num_scenarios, dtype=np.int32), len(user_E))
        closed_ms = int(np.asarray(seen.time_ms).max()) + 1
        self._slices_Q = slices_before(
            splits.histories,
            self._user_Q,
            self._scenario_Q,
            np.full(len(self._user_Q), closed_ms, dtype=np.int64),
            max_seq_len=splits.schema.max_seq_len,
            spec_seq_source=splits.schema.spec_seq_source,
        )
        self.num_epochs = config.pretrain_epochs
        larger = max(len(user_E), len(self._item_E))
        self.steps_per_epoch = -(-larger // config.pretrain_batch)
        self._planned: tuple[int, list[Pairs], list[Pairs]] = (0, [], [])

    def loss(self, *, epoch: int, step: int) -> Tensor:
        """Return the loss of a step: of its users, and of its items; both are means.

        Of several ranks each has its part, and the loss is their sum.
        """
        users, items = self._plan(epoch)
        sides = ((users[step], self._encode_users), (items[step], self._encode_items))
        return torch.stack(
            [self._loss_of(pairs, encode) for pairs, encode in sides if len(pairs.place_M)]
        ).sum()

    def _loss_of(self, pairs: Pairs, encode: Callable[[Pairs], tuple[Tensor, Tensor]]) -> Tensor:
        num_rows = len(pairs.place_M)
        own = share(num_rows)
        first_BG, second_BG = encode(Pairs(*(column[own] for column in pairs)))
        temperature = self._config.pretrain_temperature
        loss_B = info_nce(first_BG, second_BG, num_rows=num_rows, temperature=temperature)
        return loss_B.sum() / num_rows

    def _encode_users(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        num_scenarios = self._known_users_ES.shape[1]
        rows = [pairs.place_M * num_scenarios + s for s in (pairs.first_M, pairs.second_M)]
        batch = self._users.batch(
            self._user_Q, self._scenario_Q, self._slices_Q, np.concatenate(rows)
        )
        vectors = self._model.represent_users(batch)
        return vectors[: len(rows[0])], vectors[len(rows[0]) :]

    def _encode_items(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        rows_B = torch.from_numpy(self._item_E[pairs.place_M]).to(self._device)
        scenario = np.concatenate([pairs.first_M, pairs.second_M])
        vectors = self._model.represent_items(
            self._items.batch(rows_B),
            torch.arange(len(rows_B), device=self._device).repeat(2),
            torch.from_numpy(scenario).to(self._device),
        )
        return vectors[: len(rows_B)], vectors[len(rows_B) :]

    def _plan(self, epoch: int) -> tuple[list[Pairs], list[Pairs]]:
        """Return the users and the items of each step of an epoch."""
        if self._planned[0] != epoch:
            rng = generator(self._seed, "pretraining", epoch)
            sides = (self._known_users_ES, self._known_items_ES)
            users, items = (_deal(known_ES, self.steps_per_epoch, rng) for known_ES in sides)
            self._planned = (epoch, users, items)
        return self._planned[1:]


def _shown_in(
    rows_N: NDArray[np.int32], scenario_N: NDArray[np.int32], size: tuple[int, int]
) -> Bools:
    """Return ``[R, S]``, whether a row was shown in a scenario; never for what is no row's own."""
    shown_RS = np.zeros(size, dtype=np.bool_)
    shown_RS[rows_N, scenario_N] = True
    shown_RS[:FIRST_ROW] = False
    return shown_RS


def _deal(known_ES: Bools, num_steps: int, rng: np.random.Generator) -> list[Pairs]:
    """Return every row once, in two scenarios drawn from its own, dealt evenly over the steps."""
    # Scenarios that are not its own come last: a row with a single one is paired with one of them.
    draw_ES = rng.random(known_ES.shape) + ~known_ES
    first_E, second_E = np.argsort(draw_ES, axis=1)[:, :2].T
    order_E = rng.permutation(len(known_ES))
    return [
        Pairs(place_M, first_E[place_M], second_E[place_M])
        for place_M in np.array_split(order_E, num_steps)
    ]


def _of_all(rows_BG: Tensor) -> Tensor:
    """Return the rows of all ranks."""
    return rows_BG if num_ranks() == 1 else gather_parts(rows_BG)
