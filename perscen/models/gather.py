"""Reading rows of a table: as torch does it, but with a backward that is fast on a CPU too.

The gradient of a gather is a product with a transposed 0/1 matrix. On the CPU, SciPy's sparse
product is several times faster at it than torch, and as deterministic.

Letters: R table rows, V values, B bags, D width, M items, S scenarios, P (item, scenario) pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F


def gather(table_RD: Tensor, rows: Tensor) -> Tensor:
    """Return ``rows.shape + [D]``, the table's rows; row 0 gets no gradient when it is padding.

    As ``F.embedding(rows, table, padding_idx=0)``.
    """
    if table_RD.device.type != "cpu":
        return F.embedding(rows, table_RD, padding_idx=0)
    out: Tensor = _Pool.apply(table_RD, rows.reshape(-1), None, True)  # type: ignore[no-untyped-call]
    return out.view(*rows.shape, table_RD.shape[1])


def spread(table_RD: Tensor, rows_B: Tensor | None) -> Tensor:
    """Return ``[B, D]``, the table's rows, or without ``rows_B`` the table itself."""
    if rows_B is None:
        return table_RD
    if table_RD.device.type != "cpu":
        return F.embedding(rows_B, table_RD)
    out: Tensor = _Pool.apply(table_RD, rows_B, None, False)  # type: ignore[no-untyped-call]
    return out


def pooled_sum(table_RD: Tensor, rows_V: Tensor, offsets_B1: Tensor) -> Tensor:
    """Return ``[B, D]``, the sum of each bag's rows; row 0 must be zero and gets no gradient."""
    if table_RD.device.type != "cpu":
        return F.embedding_bag(
            rows_V, table_RD, offsets_B1, mode="sum", include_last_offset=True, padding_idx=0
        )
    out: Tensor = _Pool.apply(table_RD, rows_V, offsets_B1, True)  # type: ignore[no-untyped-call]
    return out


def every_pair(num_items: int, scenario_S: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``index_P`` and ``scenario_P`` of all items in each scenario, one after the other."""
    index_M = torch.arange(num_items, device=scenario_S.device)
    return index_M.repeat(len(scenario_S)), scenario_S.repeat_interleave(num_items)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table_RD: Tensor, rows_V: Tensor, offsets_B1: Tensor | None, padded: bool
    ) -> Tensor:
        ctx.save_for_backward(rows_V, offsets_B1)
        ctx.num_rows, ctx.padded = len(table_RD), padded
        if offsets_B1 is None:
            return F.embedding(rows_V, table_RD)
        return F.embedding_bag(rows_V, table_RD, offsets_B1, mode="sum", include_last_offset=True)

    @staticmethod
    def backward(ctx: Any, grad_BD: Tensor) -> tuple[Tensor, None, None, None]:
        rows_V, offsets_B1 = ctx.saved_tensors
        ends = np.arange(len(rows_V) + 1) if offsets_B1 is None else offsets_B1.numpy()
        wide = torch.float64 if grad_BD.dtype == torch.float64 else torch.float32
        grad = grad_BD.to(wide).contiguous().numpy()
        picked = sparse.csr_matrix(
            (np.ones(len(rows_V), grad.dtype), rows_V.numpy(), ends), (len(grad), ctx.num_rows)
        )
        grad_RD = torch.from_numpy(picked.T @ grad)
        if ctx.padded:
            grad_RD[0] = 0
        return grad_RD.to(grad_BD.dtype), None, None, None
