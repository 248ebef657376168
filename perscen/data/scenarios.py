"""Which scenarios a run has: those with most clicks in the training window."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from perscen.config import SplitConfig
from perscen.data.interactions import Interactions
from perscen.data.windows import Windows
from perscen.errors import ConfigError

logger = logging.getLogger(__name__)


def choose_scenarios(log: Interactions, *, windows: Windows, config: SplitConfig) -> list[str]:
    """Return the scenarios by falling click count in the training window, ties by name.

    Raises:
        ConfigError: A scenario asked for by name has no click there, or there are fewer scenarios
            with clicks than asked for.
    """
    first, end = windows.span_ms("train")
    train_N = (log.time_ms >= first) & (log.time_ms < end)
    names: list[str] = log.scenarios.to_pylist()
    clicks = _counts(log, train_N & log.clicked, names)
    ranked = sorted((n for n in names if clicks[n]), key=lambda n: (-clicks[n], n))
    known = ", ".join(f"{n} ({clicks[n]:,})" for n in ranked) or "none"
    days = f"{windows.train.first} to {windows.train.last}"
    if config.scenarios is not None:
        if missing := sorted(set(config.scenarios) - set(ranked)):
            raise ConfigError(
                f"split.scenarios names {', '.join(missing)}, which no click of the training "
                f"window, {days}, has; scenarios with clicks: {known}",
                hint="name scenarios of the log, or leave split.scenarios out to have them found",
            )
        return [name for name in ranked if name in config.scenarios]
    if len(ranked) < config.num_scenarios:
        raise ConfigError(
            f"split.num_scenarios is {config.num_scenarios}, but only {len(ranked)} scenarios have "
            f"a click in the training window, {days}: {known}",
            hint="lower split.num_scenarios, or lengthen the training window",
        )
    chosen = ranked[: config.num_scenarios]
    shown = _counts(log, train_N, names)
    by_impressions = sorted(names, key=lambda n: (-shown[n], n))[: config.num_scenarios]
    if set(by_impressions) != set(chosen):
        logger.warning(
            "clicks and impressions rank other scenarios first; clicks decide",
            extra={"by_clicks": chosen, "by_impressions": by_impressions},
        )
    return chosen


def _counts(log: Interactions, mask_N: NDArray[np.bool_], names: list[str]) -> dict[str, int]:
    counts = np.bincount(log.scenario[mask_N], minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))
