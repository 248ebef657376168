"""A look inside the model: feature graphs, scenario preferences and gates of test users.

Letters: Q queries, N nodes, L layers, G width of a preference, S scenarios.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.report import figures, maps
from components.report.page import Cell, Column, Figure, Section, Table
from components.report.words import MINUS, count, percent
from perscen.data.batches import UserSource
from perscen.data.splits import Splits
from perscen.diagnostics.gates import FINAL, NEAR, gate_table, gates_of
from perscen.models.perscen import Inspection, Perscen
from perscen.models.two_tower import TwoTower
from perscen.schema import FIRST_ROW

Floats = NDArray[np.float64]

NUM_USERS: Final = 6
"""Users whose graphs are drawn, as in the paper's Fig. 4."""
PER_SCENARIO: Final = 250
"""Most queries of one scenario on the map and behind the gates' means."""


@dataclass(frozen=True)
class Look:
    """What the model did with a sample of the test queries."""

    graphs: Inspection
    """Of up to six users, one query each."""
    sample: Inspection
    scenario_Q: NDArray[np.int64]
    """Scenario of each query of the sample."""


def look_inside(model: TwoTower, splits: Splits) -> Look | None:
    """Return what the model does with test users; None for a family without graphs."""
    if not isinstance(model, Perscen) or not len(splits.test.user):
        return None
    users = UserSource(splits)

    def inspect(rows_Q: NDArray[np.int64]) -> Inspection:
        queries = splits.test
        batch = users.batch(queries.user, queries.scenario, splits.test_slices, rows_Q)
        return model.inspect(batch)

    scenario_Q = np.asarray(splits.test.scenario, dtype=np.int64)
    sample_Q = np.concatenate(
        [
            _evenly(np.flatnonzero(scenario_Q == s), PER_SCENARIO)
            for s in range(len(splits.schema.scenarios))
        ]
    )
    return Look(inspect(_six(splits)), inspect(sample_Q), scenario_Q[sample_Q])


def graphs_section(look: Look | None, *, family: str) -> Section:
    """Return the section on the personal feature graphs."""
    anchor, title = "graphs", "Feature graphs"
    if look is None or not look.graphs.adjacency_BNN:
        return _absent(anchor, title, family=family, what="feature graph")
    nodes = look.graphs.node_names
    return Section(
        anchor,
        title,
        paragraphs=(
            "How strongly the user tower joins each pair of a user's fields in its first layer "
            f"({len(nodes)} fields, columns in the order of rows; the fuller the colour, the "
            "stronger; one scale for all). The users are spread evenly over those known in the "
            "test window.",
            likeness(look),
        ),
        figures=adjacency_figures(look),
    )


def adjacency_figures(look: Look) -> tuple[Figure, ...]:
    """Return a heat map of each user's first-layer graph, all on one scale."""
    weight_QNN = look.graphs.adjacency_BNN[0].double().numpy()
    names = [f"User {letter}" for letter in string.ascii_uppercase[: len(weight_QNN)]]
    top = float(np.quantile(_off_diagonal(weight_QNN), 0.995)) if len(weight_QNN) else 1.0
    return tuple(
        Figure(maps.adjacency(weight_NN, nodes=look.graphs.node_names, user=name, top=top))
        for weight_NN, name in zip(weight_QNN, names, strict=True)
    )


def preferences_section(look: Look | None, *, scenarios: Sequence[str], family: str) -> Section:
    """Return the section on scenario preferences and on the gates that let them through."""
    anchor, title = "preferences", "Preferences and gates"
    if look is None:
        return _absent(anchor, title, family=family, what="scenario preference")
    position_Q, names = _positions(look, scenarios)
    drawn = [preference_figure(look, scenarios=scenarios)]
    tables = []
    paragraphs = [
        "A preference joins what a user clicked in a scenario, its code, and the scenario itself. "
        "The gates decide, layer by layer, how much of it enters the user's vector."
    ]
    if gates := gates_of(look.sample):
        drawn.append(_gate_figure(gates, position_Q, names))
        tables.append(_shut_and_open(gates, position_Q, names))
    if not look.sample.gates_BW:
        paragraphs.append("This model fuses its layers without gated units.")
    first_Q = np.array([int(np.flatnonzero(position_Q == n)[0]) for n in range(len(names))])
    own_SZ = look.sample.scenario_preference_BZ.double().numpy()[first_Q]
    tables.append(_similarity(own_SZ, names))
    return Section(anchor, title, tuple(paragraphs), tuple(drawn), tables=tuple(tables))


def preference_figure(look: Look, *, scenarios: Sequence[str]) -> Figure:
    """Return the map of the users' preferences in their scenarios."""
    position_Q, names = _positions(look, scenarios)
    preference_QG = look.sample.preference_BW.double().numpy()
    point_Q2, explained = principal_components(preference_QG)
    centre_S2 = np.stack([point_Q2[position_Q == n].mean(axis=0) for n in range(len(names))])
    return Figure(
        maps.preference_map(
            point_Q2,
            position_Q,
            centre_S2,
            scenarios=names,
            explained=explained,
            centre="the mean of each scenario",
        ),
        "Each small mark is the preference of one user in one scenario, projected by principal "
        f"component analysis of all {count(len(point_Q2), 'vector')}; large marks are means. "
        + _separation(preference_QG, position_Q),
    )


def principal_components(rows_QG: Floats) -> tuple[Floats, tuple[float, float]]:
    """Return the rows on their first two principal components, and the variance each explains.

    A component's sign is set so that its largest loading is positive: the same rows, the same map.
    """
    centred_QG = rows_QG - rows_QG.mean(axis=0)
    _, spread_R, axes_RG = np.linalg.svd(centred_QG, full_matrices=False)
    axes_2G = np.zeros((2, rows_QG.shape[1]))
    axes_2G[: len(axes_RG[:2])] = axes_RG[:2]
    for axis_G in axes_2G:
        if axis_G[np.abs(axis_G).argmax()] < 0:
            axis_G *= -1
    variance_R = np.pad(spread_R**2, (0, 2))
    total = variance_R.sum() or 1.0
    return centred_QG @ axes_2G.T, (
        float(variance_R[0] / total),
        float(variance_R[1] / total),
    )


def _six(splits: Splits) -> NDArray[np.int64]:
    user_Q = np.asarray(splits.test.user)
    users, first_Q = np.unique(user_Q, return_index=True)
    known = first_Q[users >= FIRST_ROW]
    return _evenly(known if len(known) else first_Q, NUM_USERS)


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def _off_diagonal(weight_QNN: Floats) -> Floats:
    off_NN = ~np.eye(weight_QNN.shape[-1], dtype=bool)
    return weight_QNN[:, off_NN] if off_NN.any() else weight_QNN.reshape(len(weight_QNN), -1)


def likeness(look: Look) -> str:
    """Say how far the graphs are personal: by their edges, and by the weights on these."""
    weight_QNN = look.graphs.adjacency_BNN[0].double().numpy()
    edges = [np.triu(weight_NN, k=1) > 0 for weight_NN in weight_QNN]
    shared = [
        float((a & b).sum() / (a | b).sum()) for a, b in combinations(edges, 2) if (a | b).any()
    ]
    if not shared:
        return "There are no two users with edges to compare."
    off_QE = _off_diagonal(weight_QNN)
    scale = float(np.abs(off_QE).mean()) or 1.0
    apart = np.mean([np.abs(a - b).mean() / scale for a, b in combinations(off_QE, 2)])
    return (
        f"Two of these users share {percent(float(np.mean(shared)))} of their edges on average, "
        f"the least alike {percent(min(shared))}; their weights differ by "
        f"{percent(float(apart))} of a mean weight."
    )


def _separation(preference_QG: Floats, position_Q: NDArray[np.int64]) -> str:
    total = float(((preference_QG - preference_QG.mean(axis=0)) ** 2).sum())
    if not total:
        return "All preferences are equal."
    within = 0.0
    for n in range(int(position_Q.max()) + 1):
        mine = preference_QG[position_Q == n]
        within += float(((mine - mine.mean(axis=0)) ** 2).sum())
    return (
        f"The scenario explains {percent(1 - within / total)} of their variance, the user the rest."
    )


def _positions(look: Look, scenarios: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return each query's place among the scenarios that have any, and the names of these."""
    present = [n for n in range(len(scenarios)) if (look.scenario_Q == n).any()]
    return np.searchsorted(present, look.scenario_Q), [scenarios[n] for n in present]


def _gate_figure(
    gates: Mapping[str, Floats], position_Q: NDArray[np.int64], scenarios: Sequence[str]
) -> Figure:
    groups = [
        [gate_QW[position_Q == n].ravel() for n in range(len(scenarios))]
        for gate_QW in gates.values()
    ]
    mean_LS = np.array([[values.mean() for values in layer] for layer in groups])
    low_LS, high_LS = (
        np.array([[np.quantile(values, at) for values in layer] for layer in groups])
        for at in (0.1, 0.9)
    )
    final = (
        " The final gate weighs the fused graph (1) against the preference alone (0)."
        if FINAL in gates
        else ""
    )
    return Figure(
        figures.gates(mean_LS, low_LS, high_LS, layers=tuple(gates), scenarios=scenarios),
        "Mean activation of each gate, 0 shut and 1 open; the bars span the middle 80 % over users "
        f"and units.{final}",
    )


def _shut_and_open(
    gates: Mapping[str, Floats], position_Q: NDArray[np.int64], scenarios: Sequence[str]
) -> Table:
    found = gate_table([gates], [position_Q], names=scenarios)
    share = {(r["scenario"], r["layer"]): r for r in found.iter_rows(named=True)}
    return Table(
        f"Share of gates within {NEAR} of shut and of open",
        (Column("Scenario", numeric=False), *(Column(layer.capitalize()) for layer in gates)),
        tuple(
            (
                Cell(s),
                *(
                    Cell(
                        f"{percent(share[s, layer]['near_0'])} shut",
                        note=f"{percent(share[s, layer]['near_1'])} open",
                    )
                    for layer in gates
                ),
            )
            for s in scenarios
        ),
    )


def _similarity(own_SZ: Floats, scenarios: Sequence[str]) -> Table:
    unit_SZ = own_SZ / np.maximum(np.linalg.norm(own_SZ, axis=1, keepdims=True), 1e-12)
    return Table(
        "How alike the scenarios' own preferences are before any user's history is joined: "
        "cosine of the vectors p of eq. (11)",
        (Column("Scenario", numeric=False), *(Column(f"Scenario {s}") for s in scenarios)),
        tuple(
            (Cell(s), *(Cell(f"{cosine:.2f}".replace("-", MINUS)) for cosine in row_S))
            for s, row_S in zip(scenarios, unit_SZ @ unit_SZ.T, strict=True)
        ),
    )


def _absent(anchor: str, title: str, *, family: str, what: str) -> Section:
    return Section(anchor, title, missing=f"The model ({family}) has no {what} to show.")
