"""What is found in a trained model, and in the quantiser by itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from components.diagnosis import figures
from components.diagnosis.showing import Finding
from components.report import maps
from components.report.inside import (
    adjacency_figures,
    likeness,
    look_inside,
    preference_figure,
)
from components.report.page import Figure
from perscen.data.splits import Splits
from perscen.diagnostics.looking import (
    Window,
    code_table,
    gate_activations,
    history_codes,
    overlap_table,
    with_part,
)
from perscen.diagnostics.quantising import alone_table, clusters
from perscen.errors import ConfigError
from perscen.models.config import PerscenConfig, VqConfig
from perscen.models.two_tower import TwoTower


def alone_on_clusters(num_clusters: int, *, codes: int, steps: int) -> Finding:
    """Return what the quantiser makes of clusters of known number."""
    table = alone_table(clusters(num_clusters), VqConfig(codebook_size=codes), steps=steps)
    title = f"The quantiser alone on {num_clusters} clusters, {codes} codes, {steps} batches"
    distortion = dict(table.select("remedy", "distortion").iter_rows())
    drawn = figures.dots(
        distortion,
        name="quantiser-clusters",
        title="Squared distance to the nearest code, share of variance",
    )
    return Finding("quantiser-clusters", title, table, {"quantiser-clusters": drawn})


def codes_of_model(model: TwoTower, splits: Splits, *, window: Window, steps: int) -> list[Finding]:
    """Return how a model's codes are used, what scenarios share, and what others could be.

    Raises:
        ConfigError: The model has no codebook, or no query of the window has clicks to enter it.
    """
    seen = history_codes(model, splits, window=window)
    if seen.distortion is None or seen.spread is None:
        raise ConfigError(
            f"none of the {seen.empty_S.sum():,} {window} queries has clicks in its scenario "
            "before the window, so nothing enters the codebook; at least one must",
            hint="look at another window, or make splits of more days",
        )
    config = model.config
    assert isinstance(config, PerscenConfig), "a model with a codebook has its settings"
    names = splits.schema.scenarios
    share_KS = (seen.counts_SK / np.maximum(seen.counts_SK.sum(axis=1, keepdims=True), 1)).T
    alone = alone_table(torch.from_numpy(seen.vector_QZ), config.vq, steps=steps)
    return [
        Finding(
            "codes",
            f"Codes of {window} queries with clicks in their scenario; distortion "
            f"{seen.distortion:.3f} of the variance, spread {seen.spread:.3f} of the mean",
            code_table(seen, names=names),
            {"codes": maps.code_map(share_KS, scenarios=names)},
        ),
        Finding(
            "codes-shared",
            "What a scenario shares with a richer one; a divergence below chance shows nothing",
            overlap_table(seen, names=names),
        ),
        Finding(
            "quantiser-alone",
            f"Fresh codebooks alone on the {len(seen.vector_QZ):,} vectors of this model, "
            f"{steps} batches",
            alone,
        ),
    ]


def gates_of_model(model: TwoTower, splits: Splits, *, window: Window) -> Finding:
    """Return how far the gates of a model are open.

    Raises:
        ConfigError: The model has no gates.
    """
    table = gate_activations(model, splits, window=window)
    title = f"Gate activations, {window} window; near 0 and near 1 are within 0.1"
    return Finding("gates", title, table, {"gates": figures.gates(table)})


def case_study(model: TwoTower, splits: Splits) -> Mapping[str, Figure]:
    """Return the paper's Figs. 4 and 5 for this model, by name.

    Raises:
        ConfigError: The model has no feature graph.
    """
    has_graph = getattr(model.config, "interaction", "") == "gnn"
    with_part(model, "feature graph", there=has_graph)
    look = look_inside(model, splits)
    assert look is not None, "a model with a graph can be looked into"
    heat_maps = [figure.svg for figure in adjacency_figures(look)]
    both = figures.side_by_side(heat_maps, columns=3, label="Feature graphs of six users")
    return {
        "figure-4": Figure(both, likeness(look)),
        "figure-5": preference_figure(look, scenarios=splits.schema.scenarios),
    }
