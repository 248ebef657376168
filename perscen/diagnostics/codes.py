"""How a codebook is used, and how much of it scenarios share: counts in, numbers out.

Letters: S scenarios, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perscen.evaluation.metrics import perplexity

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_DRAWS: Final = 1_000


@dataclass(frozen=True)
class CodeUse:
    """How rows fell on a codebook."""

    num_rows: int
    num_codes: int
    used: int
    perplexity: float

    @property
    def dead(self) -> int:
        """Codes that no row fell on."""
        return self.num_codes - self.used


def use_of(counts_K: Counts) -> CodeUse:
    """Return the use of a codebook from the rows on each code."""
    return CodeUse(
        num_rows=int(counts_K.sum()),
        num_codes=len(counts_K),
        used=int((counts_K > 0).sum()),
        perplexity=perplexity(counts_K),
    )


def share_on_codes_of(counts_SK: Counts) -> Floats:
    """Return ``[S, S]``: the share of the row's queries on codes that the column's fell on too.

    A scenario without queries shares nothing.
    """
    on_SS = counts_SK @ (counts_SK > 0).T.astype(np.int64)
    share_SS: Floats = on_SS / np.maximum(counts_SK.sum(axis=1, keepdims=True), 1)
    return share_SS


def divergence(one_K: Counts, other_K: Counts) -> float:
    """Return the Jensen-Shannon divergence of two distributions over codes.

    In bits: 0 for equal ones, 1 for ones that share no code.

    Raises:
        ValueError: One of them has no rows, so there is no distribution.
    """
    if not (one_K.any() and other_K.any()):
        raise ValueError("a scenario without queries has no distribution over codes")
    return float(_divergences(one_K[None], other_K[None])[0])


def divergence_by_chance(
    one_K: Counts, other_K: Counts, *, level: float = 0.95, seed: int = 0
) -> float:
    """Return the divergence that two equal scenarios of these sizes stay below, so often.

    Both are drawn from the two taken together. A smaller divergence shows no difference.
    """
    rng = np.random.default_rng(seed)
    pooled_K = (one_K + other_K) / (one_K.sum() + other_K.sum())
    ones_DK, others_DK = (
        rng.multinomial(int(counts_K.sum()), pooled_K, size=_DRAWS) for counts_K in (one_K, other_K)
    )
    return float(np.quantile(_divergences(ones_DK, others_DK), level))


def _divergences(ones_DK: Counts, others_DK: Counts) -> Floats:
    ones, others = (c / c.sum(axis=1, keepdims=True) for c in (ones_DK, others_DK))
    middle = (ones + others) / 2
    spread: Floats = (_relative_entropy(ones, middle) + _relative_entropy(others, middle)) / 2
    return spread


def _relative_entropy(of_DK: Floats, to_DK: Floats) -> Floats:
    ratio_DK = np.divide(of_DK, to_DK, out=np.ones_like(of_DK), where=of_DK > 0)
    entropy: Floats = (of_DK * np.log2(ratio_DK)).sum(axis=1)
    return entropy
