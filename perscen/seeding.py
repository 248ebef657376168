"""Random numbers that follow from a seed and a purpose, whatever was drawn before."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Return the generator of one purpose and place, such as ``(seed, "negatives", epoch, step)``.

    Equal arguments give equal draws in any process, so work that was interrupted goes on with the
    same draws and no generator state is ever stored.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *keys])


def seed_torch(seed: int, purpose: str, *keys: int) -> None:
    """Set torch's own generators, on every device, by the same rule."""
    torch.manual_seed(int(generator(seed, purpose, *keys).integers(2**63)))
