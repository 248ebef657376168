"""Where automatic mixed precision has to stop."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """Return a context without autocast on a tensor's device.

    Choosing the largest of many entries, or the nearest of few codes, is a matter of differences
    that half precision does not hold.
    """
    return torch.autocast(like.device.type, enabled=False)
