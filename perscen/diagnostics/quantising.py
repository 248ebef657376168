"""The quantiser by itself, on vectors that stand still, and what is tried against dead codes.

Letters: N vectors, K codes, Z width.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from perscen.diagnostics.codes import use_of
from perscen.models.config import VqConfig
from perscen.models.quantiser import Quantiser
from perscen.seeding import seed_torch

EMA: Final = 0.99
REVIVE_AFTER: Final = 30
BETAS: Final = (0.0, 0.25, 1.0)
"""What the remedies use where the settings have neither: those of the recipe ``best``."""


def remedies(vq: VqConfig) -> dict[str, VqConfig]:
    """Return the settings of a quantiser with each remedy, and without any, by name.

    The two that keep codes alive are on or off as the name says; the later ones start from the
    given settings, and no value is tried that these have.
    """
    ema, revive = vq.ema_decay or EMA, vq.revive_after or REVIVE_AFTER
    half = max(1, vq.codebook_size // 2)

    def having(**changes: Any) -> VqConfig:
        return vq.model_copy(update=changes)

    return {
        "none": having(ema_decay=None, revive_after=None),
        "EMA": having(ema_decay=ema, revive_after=None),
        "revival": having(ema_decay=None, revive_after=revive),
        "EMA + revival": having(ema_decay=ema, revive_after=revive),
        f"{half} codes": having(codebook_size=half),
        **{f"beta {beta:g}": having(beta=beta) for beta in BETAS if beta != vq.beta},
    }


def clusters(
    num_clusters: int,
    *,
    num_rows: int = 4096,
    dim: int = 16,
    spread: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Return ``[N, Z]``: rows around standard normal centres, as many around each as divide."""
    rng = np.random.default_rng(seed)
    centre_CZ = rng.standard_normal((num_clusters, dim))
    own_N = np.arange(num_rows) % num_clusters
    rows_NZ = centre_CZ[own_N] + spread * rng.standard_normal((num_rows, dim))
    return torch.from_numpy(rows_NZ.astype(np.float32))


def quantise_alone(
    vector_NZ: Tensor,
    config: VqConfig,
    *,
    steps: int = 500,
    batch: int = 1024,
    lr: float = 3e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Train a fresh codebook on vectors that stand still; return distortion and use at the end.

    ``distortion`` is the mean squared distance to the nearest code as a share of the variance: 0
    for perfect codes, 1 for one code at the mean. ``beta`` has no effect here: it moves encoders.

    Args:
        vector_NZ: The vectors.
        config: The quantiser's settings.
        steps: Batches it is trained on.
        batch: Vectors of one, drawn with replacement.
        lr: Adam's, for codes that follow their gradient.
        seed: Of all that is random.
    """
    seed_torch(seed, "quantiser alone")
    quantiser = Quantiser(vector_NZ.shape[1], config).train()
    learned = list(quantiser.parameters())
    optimiser = torch.optim.Adam(learned, lr=lr) if learned else None
    for _ in range(steps):
        loss = quantiser(vector_NZ[torch.randint(len(vector_NZ), (batch,))]).loss
        if optimiser is not None:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    codes_KZ = quantiser.codes_KZ.detach()
    return _measure(vector_NZ, codes_KZ, quantiser.nearest(vector_NZ))


def alone_table(
    vector_NZ: Tensor, vq: VqConfig, *, steps: int = 500, lr: float = 3e-3, seed: int = 0
) -> pl.DataFrame:
    """Return a row per remedy, and one of k-means, which says how good codes can be."""
    rows = [
        {
            "remedy": name,
            **quantise_alone(vector_NZ, config, steps=steps, lr=lr, seed=seed),
        }
        for name, config in remedies(vq).items()
        if not name.startswith("beta")
    ]
    centre_KZ = _kmeans(vector_NZ.numpy(), vq.codebook_size, seed=seed)
    nearest_N = torch.cdist(vector_NZ, centre_KZ).argmin(dim=1)
    rows.append({"remedy": "k-means", **_measure(vector_NZ, centre_KZ, nearest_N)})
    return pl.DataFrame(rows)


def _measure(vector_NZ: Tensor, codes_KZ: Tensor, nearest_N: Tensor) -> dict[str, float]:
    use = use_of(np.bincount(nearest_N.numpy(), minlength=len(codes_KZ)))
    distance = (vector_NZ - codes_KZ[nearest_N]).square().sum(dim=1).mean()
    variance = vector_NZ.var(dim=0, correction=0).sum()
    return {
        "codes": use.num_codes,
        "distortion": float(distance / variance.clamp(min=1e-12)),
        "used": use.used,
        "dead": use.dead,
        "perplexity": use.perplexity,
    }


def _kmeans(vector_NZ: NDArray[np.float32], num: int, *, seed: int) -> Tensor:
    """Return the best of a few k-means, by distortion."""
    best, least = vector_NZ[:num], np.inf
    for start in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a centre without rows is no trouble here
            centre_KZ, own_N = kmeans2(vector_NZ, num, minit="++", rng=seed + start)
        distortion = float(((vector_NZ - centre_KZ[own_N]) ** 2).sum())
        if distortion < least:
            best, least = centre_KZ, distortion
    return torch.from_numpy(best.astype(np.float32))
