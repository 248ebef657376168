"""Messages along edges against messages by whole matrices: from which field count edges win.

Both compute the same, forward and backward, on random graphs with ``power: same``; what is kept is
so many neighbours of each node (``sparsify: row_topk``). Ratios above 1 are for the edges.

Run: ``python -m bench.graph``, about two minutes on one thread.
"""

from __future__ import annotations

import argparse
from typing import Final

import torch

from bench.report import Result
from perscen.diagnostics.kernel_cost import kernel_cost
from perscen.models.config import GraphConfig
from perscen.models.graph_kernel import propagate
from perscen.models.sparse_kernel import THIN, WIDE, pays, propagate_sparse

NODES: Final = (34, 64, 128, 256, 384, 512)
SHARES: Final = (1 / 8, 1 / 16, 1 / 32, 1 / 64)
LAYERS, DIM, ENTRIES = 3, 16, 2**20
"""Rows are as many as have so many adjacency entries together."""


def run() -> list[Result]:
    """Print the table and return the ratios where the sparse kernel starts to be used."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"{LAYERS} layers, width {DIM}, one thread; CPU time and kept memory, matrices / edges")
    heads = "".join(f"  keep 1/{round(1 / share):<3} time  memory" for share in SHARES)
    print(f"{'fields':>6}{heads}")
    ratios: dict[tuple[int, float], tuple[float, float]] = {}
    for num_nodes in NODES:
        cells = []
        for share in SHARES:
            ratios[num_nodes, share] = time, memory = _ratios(num_nodes, share)
            used = pays(num_nodes, LAYERS, config=_config(share))
            cells.append(f"{'*' if used else ' ':>11}{time:7.2f}{memory:8.1f}")
        print(f"{num_nodes:>6}{''.join(cells)}", flush=True)
    print("* where the sparse kernel is used")
    time, memory = ratios[WIDE, THIN]
    return [
        Result(f"edges against matrices, {WIDE} fields, time", time, 1.0),
        Result(f"edges against matrices, {WIDE} fields, kept memory", memory, 3.0),
    ]


def _ratios(num_nodes: int, share: float) -> tuple[float, float]:
    by_matrix, by_edge = (
        kernel_cost(
            _config(share),
            layers=LAYERS,
            num_nodes=num_nodes,
            dim=DIM,
            rows=max(8, ENTRIES // num_nodes**2),
            way=way,
        )
        for way in (propagate, propagate_sparse)
    )
    return by_matrix.cpu_ms / by_edge.cpu_ms, by_matrix.held_mb / by_edge.held_mb


def _config(share: float) -> GraphConfig:
    return GraphConfig(power="same", sparsify="row_topk", keep_ratio=share)


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    run()
