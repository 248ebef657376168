"""What the processes that share a training have to agree on: sums and rows of the whole batch.

Each process (a *rank*) works through its part of every batch; the parts lie in the order of ranks.
What follows from the batch as a whole is put together here. With one process, each function gives
back what it is given and costs nothing. Every rank must call them in the same order.

Letters: B rows of this rank, A rows of all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from perscen.errors import ServiceUnavailable


def num_ranks() -> int:
    """Return how many processes share this training; 1 outside of a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if num_ranks() > 1 else 0


def share(num_rows: int) -> slice:
    """Return this rank's part of the rows: an even one, empty when there are fewer than ranks."""
    first, last = (num_rows * number // num_ranks() for number in (rank(), rank() + 1))
    return slice(first, last)


@torch.no_grad()
def sum_over_ranks(*values: Tensor) -> tuple[Tensor, ...]:
    """Return the sum of each tensor over ranks, in one exchange; they are of one type and device.

    Raises:
        ServiceUnavailable: Another rank is gone.
    """
    if num_ranks() == 1:
        return values
    flat = torch.cat([value.detach().flatten() for value in values])
    with _peers():
        dist.all_reduce(flat)
    parts = torch.split(flat, [value.numel() for value in values])
    return tuple(part.view(value.shape) for part, value in zip(parts, values, strict=True))


@torch.no_grad()
def gather_rows(rows_B: Tensor) -> Tensor:
    """Return ``[A, ...]``, the rows of all ranks, to the bit as each has them.

    Raises:
        ServiceUnavailable: Another rank is gone.
    """
    if num_ranks() == 1:
        return rows_B
    counts = torch.zeros(num_ranks(), dtype=torch.int64, device=rows_B.device)
    counts[rank()] = len(rows_B)
    (counts,) = sum_over_ranks(counts)
    sizes: list[int] = counts.tolist()
    # A sum with zeros takes rows of any number, which an exchange of equal parts does not.
    kind = torch.uint8 if rows_B.dtype == torch.bool else rows_B.dtype
    rows_A = torch.zeros((sum(sizes), *rows_B.shape[1:]), dtype=kind, device=rows_B.device)
    first = sum(sizes[: rank()])
    rows_A[first : first + len(rows_B)] = rows_B
    with _peers():
        dist.all_reduce(rows_A)
    return rows_A.to(rows_B.dtype)


def gather_parts(rows_B: Tensor) -> Tensor:
    """Return ``[A, ...]``, put together from each rank's :func:`share`, with a gradient.

    It is the gradient of the sum of all ranks' losses, which every rank must work backwards from.
    """
    gathered: Tensor = _Gather.apply(rows_B)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_B: Tensor) -> Tensor:
        rows_A = gather_rows(rows_B)
        ctx.own = share(len(rows_A))
        return rows_A

    @staticmethod
    def backward(ctx: Any, grad_A: Tensor) -> Tensor:
        (total_A,) = sum_over_ranks(grad_A)
        return total_A[ctx.own]


@torch.no_grad()
def copy_from_rank_0(values: Tensor) -> Tensor:
    """Overwrite the tensor with rank 0's, and return it; nobody returns before rank 0 calls.

    Raises:
        ServiceUnavailable: Another rank is gone.
    """
    if num_ranks() > 1:
        with _peers():
            dist.broadcast(values, 0)
    return values


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:  # gloo has no error of its own
        raise ServiceUnavailable(
            f"rank {rank()} of {num_ranks()} lost the others: {exc}",
            hint="see what the rank that ended first says; run it again, it goes on from the last "
            "checkpoint",
        ) from exc
