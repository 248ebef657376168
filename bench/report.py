"""What the benchmarks share: fair timing of rival ways, and the closing table."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Result(NamedTuple):
    """One number against its target; ``x`` must reach it, every other unit stay below."""

    what: str
    measured: float
    target: float
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        if self.unit == "x":
            return self.measured >= self.target
        return self.measured <= self.target


def cpu_seconds(ways: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Return each way's CPU time: the median of rounds in which all take turns.

    A round before the first is not counted. Turns spread what else the machine does over all ways.
    """
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, work in ways.items():
            before = time.process_time()
            work()
            if repeat:
                taken[way].append(time.process_time() - before)
    return {way: statistics.median(seconds) for way, seconds in taken.items()}


def table(results: Sequence[Result]) -> str:
    """Return the closing table."""
    width = max(len(result.what) for result in results)
    lines = [f"{'what':{width}}  {'measured':>10}  {'target':>10}"]
    for what, measured, target, unit in results:
        sign = ">=" if unit == "x" else "<="
        met = "met" if Result(what, measured, target, unit).met else "MISSED"
        bound = f"{sign} {target:g} {unit}"
        lines.append(f"{what:{width}}  {measured:>7.3g} {unit:<2}  {bound:>10}  {met}")
    return "\n".join(lines)


def call(where: str, settings: Mapping[str, Any]) -> list[Result]:
    """Return the results of a benchmark named ``module:function``."""
    module, function = where.split(":")
    results: list[Result] = getattr(importlib.import_module(module), function)(**settings)
    return results
