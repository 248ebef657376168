"""One training shared by several processes, on one machine or several: torchrun starts them.

Every rank reads the whole splits, plans the same batches and draws the same negatives, and works
through its part of each batch (:mod:`perscen.models.ranks`). Losses are divided by the rows of the
whole batch, so the sum of the ranks' gradients is the gradient that one process computes; one
exchange per step adds them up, and carries the losses and whether anybody was told to stop. So the
settings mean the same on any number of ranks (``train.batch.size`` is the size of all parts
together), and a checkpoint made by some is taken up by any other number.

The result equals that of one process up to the order of sums, but for dropout: each rank draws its
own, rank 0 what one process draws for a batch of its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from perscen.errors import ConfigError, PerscenError
from perscen.models.ranks import copy_from_rank_0, num_ranks, rank, sum_over_ranks

PATIENCE: Final = timedelta(minutes=20)
"""How long a rank waits for the others: longer than rank 0 needs for a checkpoint on slow storage
or a tracking server that does not answer. A rank that dies closes its connections, which the others
notice at once; one whose machine vanished is missed after this long."""


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the processes that torchrun started with this one; otherwise do nothing.

    Args:
        device: ``train.device``: NCCL connects GPUs, gloo CPUs.

    Raises:
        ConfigError: There are more processes than GPUs.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(_gpu())
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    except PerscenError:
        dist.destroy_process_group()
        raise
    # After an error of another kind the process just ends, and so tells the others: to leave the
    # group in good order could mean to wait for them.
    dist.destroy_process_group()


def cuda_device() -> torch.device:
    """Return this rank's GPU; with one process the current one."""
    return torch.device("cuda", _gpu()) if num_ranks() > 1 else torch.device("cuda")


def add_up_gradients(parameters: Iterable[nn.Parameter], values: Sequence[Tensor]) -> list[float]:
    """Replace every gradient by its sum over ranks, and return that of each scalar in ``values``.

    A parameter has a gradient afterwards if any rank has one.

    Raises:
        ServiceUnavailable: Another rank is gone.
    """
    if num_ranks() == 1:
        return [float(value.detach()) for value in values]
    trained = [p for p in parameters if p.requires_grad]
    kind = trained[0]
    reached = kind.new_tensor([p.grad is not None for p in trained])
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    scalars = torch.stack([value.detach().to(kind) for value in values])
    scalars, reached, *gradients = sum_over_ranks(scalars, reached, *gradients)
    for parameter, gradient, num in zip(trained, gradients, reached.tolist(), strict=True):
        parameter.grad = gradient if num else None
    return scalars.tolist()


def start_alike(module: nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0, to the bit."""
    for tensor in module.state_dict().values():
        copy_from_rank_0(tensor)


def bytes_from_rank_0(content: bytes) -> bytes:
    """Return what rank 0 gives; what the others give does not matter."""
    if num_ranks() == 1:
        return content
    size = int(copy_from_rank_0(torch.tensor(len(content))))
    buffer = torch.empty(size, dtype=torch.uint8)
    if rank() == 0:
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else buffer
    return copy_from_rank_0(buffer).numpy().tobytes()


def wait_for_rank_0() -> None:
    """Return when rank 0 has come here too."""
    copy_from_rank_0(torch.zeros(1))


def _gpu() -> int:
    number, available = dist.get_node_local_rank(), torch.cuda.device_count()
    if number >= available:
        raise ConfigError(
            f"process {number + 1} of this machine has no GPU: there are {available}",
            hint="start one process per GPU: torchrun --nproc-per-node gpu",
        )
    return number
