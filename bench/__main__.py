"""Every benchmark, one after the other, and one closing table of what was measured against what.

Run: ``python -m bench``, about ten minutes and up to 7 GB; ``--only step`` for one of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from bench.report import Result, call, table

BENCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "step": ("bench.step:run", {}),
    "memory": ("bench.step:run_memory", {}),
    "graph": ("bench.graph:run", {}),
    "loaders": ("bench.loaders:run", {}),
    "peers": ("bench.peers:run", {}),
    "contracts": ("bench.contracts:run", {}),
    "splits": ("bench.splits:run", {"rows": 6_000_000, "small_rows": 300_000}),
}
"""Where each is, and what makes it smaller than when it is run by itself."""


def main() -> None:
    """Run them, each in a process of its own, so that none inherits another's memory or settings.

    Within a benchmark, rivals take turns in one process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=BENCHES)
    only = parser.parse_args().only
    os.environ["OMP_NUM_THREADS"] = "1"
    results: list[Result] = []
    for name in [only] if only else BENCHES:
        print(f"\n== {name}", flush=True)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            results += pool.submit(call, *BENCHES[name]).result()
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()
