"""Where a training runs, and how torch is set up for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

from perscen.config import TrainConfig
from perscen.errors import ConfigError
from perscen.training.allocator import keep_freed_memory
from perscen.training.distributed import cuda_device


@contextmanager
def torch_settings(config: TrainConfig) -> Iterator[torch.device]:
    """Give the device to train on, with torch set up for speed and equal results, then undone.

    Raises:
        ConfigError: A CUDA device is asked for and there is none.
    """
    device = _device(config.device)
    keep_freed_memory()
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    filling = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    flushing = _flushes_denormals()
    # Products of small embeddings reach the denormal range, where a CPU is many times slower.
    torch.set_flush_denormal(True)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    if device.type == "cpu":
        # Without it, parallel scatter-adds of gradients sum in whichever order threads arrive.
        torch.use_deterministic_algorithms(True)
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield device
    finally:
        torch.set_flush_denormal(flushing)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


def _flushes_denormals() -> bool:
    return not bool(torch.tensor(torch.finfo(torch.float32).tiny) / 2)  # torch does not tell


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "train.device is cuda, but torch sees no CUDA device here",
            hint="use train.device: auto, which takes a GPU when there is one",
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return cuda_device() if wanted == "cuda" else torch.device(wanted)
