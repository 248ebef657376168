"""What an epoch is judged by: validation recall per scenario, and how the codebook is used.

Letters: Q queries, S scenarios, M catalogue items, G width of both towers' vectors, K retrieved
items, C codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.evaluation.metrics import find_hits, mean_over_users, perplexity, relevant_of
from perscen.models.ranks import gather_rows, share, sum_over_ranks
from perscen.models.two_tower import TwoTower
from perscen.retrieval.exact import catalogue_vectors, exact_top_k
from perscen.schema import FIRST_ROW

_QUERIES_AT_ONCE = 2048


@dataclass(frozen=True)
class Validation:
    """One look at the validation queries.

    Attributes:
        recall: Mean Recall@K over the users of each scenario that has any, in [0, 1].
        code_counts: Queries of each scenario that fell on each code, of those with clicks in it:
            the others all fall on one, which says nothing. Empty without a codebook.
        not_finite: The first scenario with a vector that is not finite, or None.
    """

    recall: dict[str, float]
    code_counts: dict[str, list[int]]
    not_finite: str | None

    @property
    def macro_recall(self) -> float:
        """Unweighted mean of the recall over scenarios."""
        return float(np.mean(list(self.recall.values())))

    @property
    def code_usage(self) -> dict[str, float]:
        """Share of the codebook that any query of the scenario fell on, in [0, 1]."""
        return {s: float(np.mean(np.array(c) > 0)) for s, c in self.code_counts.items()}

    @property
    def code_perplexity(self) -> dict[str, float]:
        """Number of codes that would be as hard to guess if used evenly, at least 1."""
        return {s: perplexity(np.array(c)) for s, c in self.code_counts.items()}


class Validator:
    """Answers the validation queries exactly, over the whole catalogue.

    Raises:
        ConfigError: The validation window has no clicks, or ``k`` exceeds the catalogue.
    """

    def __init__(self, splits: Splits, *, k: int, device: torch.device) -> None:
        self._splits = splits
        self._k = k
        self._users = UserSource(splits, device=device)
        self._items = ItemSource(splits.items, device=device)
        num_items = self._items.num_rows - FIRST_ROW
        if k > num_items:
            raise ConfigError(
                f"train.monitor_k is {k:,}, but the catalogue has {num_items:,} items",
                hint=f"give at most {num_items:,}",
            )
        if not len(splits.valid.user):
            raise ConfigError(
                "the validation window has no click in any scenario, so no epoch can be judged",
                hint="widen split.valid or split.valid_days",
            )

    def __call__(self, model: TwoTower) -> Validation:
        """Return the recall and code counts of a model as it is; it is left in training mode.

        Ranks share the queries, and put each query's recall and code together, not means of their
        parts: all ranks see the numbers of one process, to the bit, and judge alike.
        """
        model.eval()
        rows_Q = np.arange(len(self._splits.valid.user))[share(len(self._splits.valid.user))]
        vectors_QG, codes_Q = self._encode_queries(model, rows_Q)
        vectors_SMG = catalogue_vectors(model, self._items)
        scenario_Q = self._splits.valid.scenario[rows_Q]
        recall_Q = np.empty(len(rows_Q))
        broken_S = torch.zeros(len(vectors_SMG), dtype=torch.int64)
        for scenario, vectors_MG in enumerate(vectors_SMG):
            own_Q = np.flatnonzero(scenario_Q == scenario)
            if len(own_Q):
                recall_Q[own_Q] = self._recall(vectors_QG[own_Q], vectors_MG, rows_Q[own_Q])
            finite = vectors_MG.isfinite().all() and vectors_QG[own_Q].isfinite().all()
            broken_S[scenario] = not finite
        model.train()
        (broken_S,) = sum_over_ranks(broken_S)
        broken = [self._splits.schema.scenarios[s] for s in broken_S.nonzero()[:, 0].tolist()]
        return Validation(
            recall=self._mean(gather_rows(torch.from_numpy(recall_Q)).numpy()),
            code_counts={}
            if codes_Q is None
            else self._count(gather_rows(codes_Q).numpy(), num_codes=model.num_codes),
            not_finite=next(iter(broken), None),
        )

    @torch.inference_mode()
    def _encode_queries(
        self, model: TwoTower, rows_Q: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor | None]:
        valid, slices = self._splits.valid, self._splits.valid_slices
        num_blocks = max(1, -(-len(rows_Q) // _QUERIES_AT_ONCE))
        blocks = [
            model.encode_users(self._users.batch(valid.user, valid.scenario, slices, rows))
            for rows in np.array_split(rows_Q, num_blocks)
        ]
        codes = [block.codes_B.cpu() for block in blocks if block.codes_B is not None]
        vectors_QG = torch.cat([block.vectors_BG for block in blocks])
        return vectors_QG, torch.cat(codes) if codes else None

    def _recall(
        self, vectors_QG: Tensor, vectors_MG: Tensor, rows_Q: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        _, places_QK = exact_top_k(vectors_QG, vectors_MG, self._k)
        hits = find_hits(
            places_QK.cpu().numpy() + FIRST_ROW, relevant_of(self._splits.valid, rows_Q)
        )
        return hits.recall_at(self._k)

    def _mean(self, recall_Q: NDArray[np.float64]) -> dict[str, float]:
        rows = {name: self._rows_of(s) for s, name in enumerate(self._splits.schema.scenarios)}
        return {name: mean_over_users(recall_Q[own]) for name, own in rows.items() if len(own)}

    def _count(self, codes_Q: NDArray[np.int64], *, num_codes: int) -> dict[str, list[int]]:
        slices = self._splits.valid_slices
        has_clicks_Q = np.asarray(slices.spec_end) > np.asarray(slices.spec_start)
        counts = {}
        for scenario, name in enumerate(self._splits.schema.scenarios):
            own_Q = self._rows_of(scenario)
            codes = codes_Q[own_Q[has_clicks_Q[own_Q]]]
            counts[name] = np.bincount(codes, minlength=num_codes).tolist()
        return counts

    def _rows_of(self, scenario: int) -> NDArray[np.int64]:
        return np.flatnonzero(self._splits.valid.scenario == scenario)
