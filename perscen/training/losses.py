"""The training objectives, and the two ways to compute their logits.

The *grouped* way runs the user tower once per positive and the item tower once per distinct
(item, scenario); the *naive* way runs both once per (positive, candidate) pair and is the reference
the other is tested against. Both give the same loss and, up to the order of sums, the same
gradient.

Letters: B positives, C candidates per positive (its own item among them), P pairs, M catalogue
items, N items of a sample of it, S scenarios of the batch, A rows of all ranks' batches, G width of
both towers' vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from perscen.config import TrainConfig
from perscen.data.batches import ItemBatch, ItemSource, UserBatch, UserSource
from perscen.data.sampling import CatalogueSampler, NegativeSampler
from perscen.data.splits import Splits
from perscen.models.gather import every_pair, spread
from perscen.models.ranks import gather_parts, num_ranks, share
from perscen.models.two_tower import EncodedUsers, TwoTower
from perscen.schema import FIRST_ROW
from perscen.training.rows import TrainingRows

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]
_WHOLE_CATALOGUE_FROM = 2
"""Candidates per catalogue item from which a step meets nearly all items (1 - exp(-2) = 86 %):
then the whole catalogue is encoded, and no features have to be gathered."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one step: a task loss per positive, and the model's own term, already a mean.

    Rows of less weight have it in their task loss, measured so that the batch's weights average 1.

    Of several ranks each has its part: the whole batch's ``auxiliary`` and ``total`` are the sums
    over ranks, its ``task_B`` are theirs in the order of ranks.
    """

    task_B: Tensor
    auxiliary: Tensor
    total: Tensor
    """What is minimised: the mean of ``task_B`` plus ``auxiliary``, eq. (18), which counts
    ``vq_weight`` if it is a codebook's."""


def binary_cross_entropy(logits_BC: Tensor, target_B: Tensor) -> Tensor:
    """Return ``[B]``: the mean over a positive's pairs of eq. (17), clicked against not clicked."""
    labels_BC = F.one_hot(target_B, logits_BC.shape[1]).to(logits_BC.dtype)
    return F.binary_cross_entropy_with_logits(logits_BC, labels_BC, reduction="none").mean(dim=1)


def softmax_cross_entropy(logits_BC: Tensor, target_B: Tensor) -> Tensor:
    """Return ``[B]``: minus the log of the positive's share in the softmax over its candidates."""
    return F.cross_entropy(logits_BC, target_B, reduction="none")


class Objective:
    """Computes the loss of a batch of training rows, as the settings ask for it."""

    def __init__(
        self, model: TwoTower, splits: Splits, config: TrainConfig, *, device: torch.device
    ) -> None:
        self._model = model
        self._config = config
        self._device = device
        # Of the losses that models bring along, a codebook's alone has its weight here.
        self._auxiliary_weight = config.vq_weight if model.num_codes else 1.0
        self.rows = TrainingRows.of(splits, config.shown, candidates=config.self_training.share > 0)
        met = self.rows.met
        self._own_E = np.zeros(len(self.rows.weight_E))
        self._own_E[: self.rows.num_met] = model.own_contribution(met)
        self._counted = bool(self._own_E.any())
        self._users = UserSource(splits, device=device)
        self._items = ItemSource(splits.items, device=device)
        self._catalogue_M = torch.arange(FIRST_ROW, self._items.num_rows, device=device)
        self._row_loss = binary_cross_entropy if config.loss == "bce" else softmax_cross_entropy
        num_rows = self._items.num_rows
        self._negatives: NegativeSampler | None = None
        self._samples: CatalogueSampler | None = None
        if config.loss != "full_softmax":
            self._negatives = NegativeSampler(
                self.rows.seen, num_item_rows=num_rows, config=config.neg, seed=config.seed
            )
        elif len(self._catalogue_M) > config.softmax_items:
            self._samples = CatalogueSampler(
                met.item,
                met.scenario,
                self.rows.weight_E[: self.rows.num_met],
                num_item_rows=num_rows,
                num_scenarios=len(splits.schema.scenarios),
                size=config.softmax_items,
                seed=config.seed,
            )

    def __call__(self, rows_B: Longs, *, epoch: int, step: int) -> BatchLoss:
        """Return this rank's part of the loss of a batch; negatives follow from epoch and step."""
        whole_batch, part = rows_B, share(len(rows_B))
        rows_B = whole_batch[part]
        positive_B = self._on_device(self.rows.seen.item[rows_B].astype(np.int64))
        target_B = torch.zeros_like(positive_B)  # where each row's own item is
        if self._negatives is not None:
            negatives = self._negatives.draw(whole_batch, epoch=epoch, step=step)[part]
            candidates_BC = torch.cat([positive_B[:, None], self._on_device(negatives)], dim=1)
            of_pairs = self._grouped if self._config.dedup else self._naive
            logits_BC, auxiliary = of_pairs(rows_B, candidates_BC)
        elif self._samples is not None:
            present_S = self._present(whole_batch)
            draws = [self._samples.draw(s, epoch=epoch, step=step) for s in present_S.tolist()]
            logits_BC, auxiliary = self._over_a_sample(
                rows_B, whole_batch, positive_B, present_S, draws
            )
        else:
            target_B = positive_B - FIRST_ROW
            if self._config.dedup:
                logits_BC, auxiliary = self._over_the_catalogue(rows_B, whole_batch)
            else:
                candidates_BC = self._catalogue_M.expand(len(rows_B), -1)
                logits_BC, auxiliary = self._naive(rows_B, candidates_BC)
        logits_BC = self._without_itself(logits_BC, target_B, rows_B)
        weight = self.rows.weight_E
        weight_B = self._on_device(weight[rows_B] / weight[whole_batch].mean())
        task_B = self._row_loss(logits_BC, target_B) * weight_B.to(logits_BC.dtype)
        total = task_B.sum() / len(whole_batch) + self._auxiliary_weight * auxiliary
        return BatchLoss(task_B=task_B, auxiliary=auxiliary, total=total)

    def scores(self, model: TwoTower, rows_B: Longs) -> Tensor:
        """Return ``[B]``: how a model as it is scores each row's own item."""
        batch = self._user_batch(rows_B)
        positive_B = self._on_device(self.rows.seen.item[rows_B].astype(np.int64))
        keys_P, pair_B = torch.unique(
            batch.scenario_B * self._items.num_rows + positive_B, return_inverse=True
        )
        rows_M, index_P = torch.unique(keys_P % self._items.num_rows, return_inverse=True)
        vectors_PG = model.encode_items(
            self._items.batch(rows_M), index_P, keys_P // self._items.num_rows
        )
        return (model.encode_users(batch).vectors_BG * vectors_PG[pair_B]).sum(dim=1)

    @cached_property
    def _catalogue(self) -> ItemBatch:
        return self._items.batch(self._catalogue_M)

    @cached_property
    def _own_items(self) -> ItemBatch:
        """This rank's part of the catalogue."""
        if num_ranks() == 1:
            return self._catalogue
        return self._items.batch(self._catalogue_M[share(len(self._catalogue_M))])

    def _without_itself(self, logits_BC: Tensor, target_B: Tensor, rows_B: Longs) -> Tensor:
        """Return the logits without what each row's own click adds to that of its item."""
        if not self._counted:
            return logits_BC
        own_B1 = self._on_device(self._own_E[rows_B])[:, None].to(logits_BC.dtype)
        return logits_BC.scatter_add(1, target_B[:, None], -own_B1)

    def _towers(self) -> torch.autocast:
        """Return the context that both towers run in, and nothing that is made of their vectors."""
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._config.amp)

    def _encode_users(self, batch: UserBatch) -> EncodedUsers:
        with self._towers():
            users = self._model.encode_users(batch)
        return replace(users, vectors_BG=_wide(users.vectors_BG))

    def _encode_items(
        self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor, count_P: Tensor | None = None
    ) -> Tensor:
        with self._towers():
            if count_P is None:
                return _wide(self._model.encode_items(items, index_P, scenario_P))
            return _wide(self._model.encode_items_counted(items, index_P, scenario_P, count_P))

    def _naive(self, rows_B: Longs, candidates_BC: Tensor) -> tuple[Tensor, Tensor]:
        """One row per pair: both towers run for each, as most public code does it."""
        batch = self._user_batch(np.repeat(rows_B, candidates_BC.shape[1]))
        users = self._encode_users(batch)
        items_P = candidates_BC.reshape(-1)
        vectors_PG = self._encode_items(
            self._items.batch(items_P),
            torch.arange(len(items_P), device=self._device),
            batch.scenario_B,
        )
        logits_P = (users.vectors_BG * vectors_PG).sum(dim=1)
        return logits_P.view(candidates_BC.shape), users.auxiliary_loss

    def _grouped(self, rows_B: Longs, candidates_BC: Tensor) -> tuple[Tensor, Tensor]:
        batch = self._user_batch(rows_B)
        users = self._encode_users(batch)
        # One key per (item, scenario): item vectors depend on the scenario, so the tower runs once
        # per distinct pair.
        keys_BC = batch.scenario_B[:, None] * self._items.num_rows + candidates_BC
        keys_P, pair_BC, count_P = torch.unique(keys_BC, return_inverse=True, return_counts=True)
        items_P = keys_P % self._items.num_rows
        if candidates_BC.numel() >= _WHOLE_CATALOGUE_FROM * len(self._catalogue_M):
            items, index_P = self._catalogue, items_P - FIRST_ROW
        else:
            rows_M, index_P = torch.unique(items_P, return_inverse=True)
            items = self._items.batch(rows_M)
        scenario_P = keys_P // self._items.num_rows
        vectors_PG = self._encode_items(items, index_P, scenario_P, count_P)
        candidates_BCG = spread(vectors_PG, pair_BC.flatten()).view(
            *pair_BC.shape, vectors_PG.shape[1]
        )
        return (candidates_BCG @ users.vectors_BG[:, :, None]).squeeze(-1), users.auxiliary_loss

    def _over_the_catalogue(self, rows_B: Longs, whole_batch: Longs) -> tuple[Tensor, Tensor]:
        batch = self._user_batch(rows_B)
        users = self._encode_users(batch)
        present_S = self._present(whole_batch)
        vectors_SMG = self._encode_catalogue(present_S)
        which_B = torch.searchsorted(present_S, batch.scenario_B)
        return _each_with_its_own(users.vectors_BG, vectors_SMG, which_B), users.auxiliary_loss

    def _over_a_sample(
        self,
        rows_B: Longs,
        whole_batch: Longs,
        positive_B: Tensor,
        present_S: Tensor,
        draws: Sequence[tuple[Longs, Floats]],
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``[B, 1 + N]``, the row's own item first, whose softmax is an estimate.

        An item of the sample stands for 1 / chance items of the catalogue, and the row's own one is
        never among those that it is told from.
        """
        items_SN = self._on_device(np.stack([items_N for items_N, _ in draws]))
        log_chance_SN = self._on_device(np.stack([chance_N for _, chance_N in draws]))
        scenario_B = self._on_device(self.rows.seen.scenario[rows_B].astype(np.int64))
        which_B = torch.searchsorted(present_S, scenario_B)
        if self._config.dedup:
            keys_SN = present_S[:, None] * self._items.num_rows + items_SN
            logits_BC, auxiliary = self._sampled_logits(rows_B, whole_batch, keys_SN, which_B)
        else:
            candidates_BC = torch.cat([positive_B[:, None], items_SN[which_B]], dim=1)
            logits_BC, auxiliary = self._naive(rows_B, candidates_BC)
        if len(present_S) == 1:
            which_B = which_B[:1]  # spares a copy per row
        sampled_BN = logits_BC[:, 1:] - log_chance_SN[which_B].to(logits_BC.dtype)
        sampled_BN = sampled_BN.masked_fill(items_SN[which_B] == positive_B[:, None], -torch.inf)
        return torch.cat([logits_BC[:, :1], sampled_BN], dim=1), auxiliary

    def _sampled_logits(
        self, rows_B: Longs, whole_batch: Longs, keys_SN: Tensor, which_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        users = self._encode_users(self._user_batch(rows_B))
        seen, num_rows = self.rows.seen, self._items.num_rows
        keys_A = self._on_device(
            seen.scenario[whole_batch].astype(np.int64) * num_rows + seen.item[whole_batch]
        )
        keys_P = torch.unique(torch.cat([keys_SN.flatten(), keys_A]))
        vectors_PG = self._encode_keys(keys_P)
        sampled_SNG = spread(vectors_PG, torch.searchsorted(keys_P, keys_SN.flatten())).view(
            *keys_SN.shape, -1
        )
        own_BG = spread(vectors_PG, torch.searchsorted(keys_P, keys_A[share(len(whole_batch))]))
        own_B1 = (users.vectors_BG * own_BG).sum(dim=1, keepdim=True)
        sampled_BN = _each_with_its_own(users.vectors_BG, sampled_SNG, which_B)
        return torch.cat([own_B1, sampled_BN], dim=1), users.auxiliary_loss

    def _present(self, whole_batch: Longs) -> Tensor:
        """Return the scenarios of the batch, ascending."""
        present_S = np.unique(self.rows.seen.scenario[whole_batch])
        return self._on_device(present_S.astype(np.int64, copy=False))

    def _encode_keys(self, keys_P: Tensor) -> Tensor:
        """Return ``[P, G]``, items in scenarios; ranks encode a part each, as of the catalogue."""
        own_P = keys_P[share(len(keys_P))]
        rows_M, index_P = torch.unique(own_P % self._items.num_rows, return_inverse=True)
        vectors_PG = self._encode_items(
            self._items.batch(rows_M), index_P, own_P // self._items.num_rows
        )
        return vectors_PG if num_ranks() == 1 else gather_parts(vectors_PG)

    def _encode_catalogue(self, scenario_S: Tensor) -> Tensor:
        """Return ``[S, M, G]``, all items in each of the scenarios.

        Ranks encode a part of the items each: alone, the item tower would cost each as much as one.
        """
        num_items, num_scenarios = len(self._own_items.rows_B), len(scenario_S)
        vectors_PG = self._encode_items(self._own_items, *every_pair(num_items, scenario_S))
        own_SMG = vectors_PG.view(num_scenarios, num_items, vectors_PG.shape[1])
        return (
            own_SMG if num_ranks() == 1 else gather_parts(own_SMG.transpose(0, 1)).transpose(0, 1)
        )

    def _user_batch(self, rows_B: Longs) -> UserBatch:
        seen = self.rows.seen
        return self._users.batch(seen.user, seen.scenario, self.rows.slices, rows_B)

    def _on_device(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _wide(values: Tensor) -> Tensor:
    """Return what reduced precision computed in float32; anything else as it is.

    Vectors that nearly agree have nearly equal products, which half precision would round to one.
    """
    return values.float() if values.dtype == torch.bfloat16 else values


def _each_with_its_own(users_BG: Tensor, items_SNG: Tensor, which_B: Tensor) -> Tensor:
    """Return ``[B, N]``: every user's products with the items of his own scenario."""
    if len(items_SNG) == 1:
        return users_BG @ items_SNG[0].T
    # A scenario's rows meet that scenario's item vectors alone; then back into batch order.
    order_B = torch.argsort(which_B, stable=True)
    sizes = torch.bincount(which_B, minlength=len(items_SNG)).tolist()
    parts = zip(torch.split(users_BG[order_B], sizes), items_SNG, strict=True)
    return torch.cat([rows_BG @ items_NG.T for rows_BG, items_NG in parts])[torch.argsort(order_B)]
