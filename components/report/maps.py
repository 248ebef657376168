"""The page's maps: codes by scenario, feature graphs, preferences in the plane.

Letters: S scenarios, K codes, N nodes, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from components.report.drawing import GRID, HEAT_RGB, INK, WIDTH, drawing, series
from components.report.words import percent, short

Floats = NDArray[np.float64]


def code_map(share_KS: Floats, *, scenarios: Sequence[str]) -> Markup:
    """Return the share of each scenario's queries on each code; columns add up to one."""
    num_codes = len(share_KS)
    with drawing(width=WIDTH, height=max(240, min(110 + 24 * num_codes, 720))) as plot:
        axes = plot.axes
        # Full strength is never reached, so that the numbers stay readable.
        _heat(axes, share_KS, top=1.4 * float(share_KS.max(initial=0.0)))
        if num_codes <= 24:
            for (code, scenario), share in np.ndenumerate(share_KS):
                if share > 0:
                    axes.text(
                        scenario, code, percent(share, digits=0), ha="center", va="center", size=11
                    )
        axes.set_xticks(range(len(scenarios)), [short(f"scenario {s}", 14) for s in scenarios])
        axes.xaxis.tick_top()
        axes.yaxis.set_major_locator(MaxNLocator(min(num_codes, 20), integer=True))
        axes.set_ylabel("code")
        most = "; ".join(
            f"scenario {s} mostly on code {int(share_KS[:, i].argmax())} "
            f"({percent(float(share_KS[:, i].max()), digits=0)})"
            for i, s in enumerate(scenarios)
        )
        return plot.to_svg(
            name="codes", label=f"Heat map of {num_codes} codes by scenario: {most}."
        )


def adjacency(weight_NN: Floats, *, nodes: Sequence[str], user: str, top: float) -> Markup:
    """Return one user's feature graph as a heat map; ``top`` is the weight of full colour."""
    edges = np.triu(weight_NN, k=1)
    m, n = (int(node) for node in np.unravel_index(int(edges.argmax()), edges.shape))
    size = 12.5 if len(nodes) <= 20 else 9.5
    with drawing(width=WIDTH, height=390) as plot:
        axes = plot.axes
        _heat(axes, weight_NN, top=top)
        axes.set_xticks([])
        axes.set_yticks(range(len(nodes)), nodes, size=size)
        plot.title(user)
        return plot.to_svg(
            name=f"adjacency-{user}",
            label=f"Feature graph of {user}: {len(nodes)} by {len(nodes)} nodes, "
            f"{int((edges > 0).sum())} edges; the strongest joins {nodes[m]} and {nodes[n]}.",
        )


def preference_map(
    point_Q2: Floats,
    scenario_Q: NDArray[np.int64],
    centre_S2: Floats,
    *,
    scenarios: Sequence[str],
    explained: tuple[float, float],
    centre: str,
) -> Markup:
    """Return the preferences in two dimensions, coloured by scenario, with a centre for each."""
    with drawing(width=WIDTH, height=470) as plot:
        axes = plot.axes
        for position, scenario in enumerate(scenarios):
            colour, marker = series(position)
            mine = point_Q2[scenario_Q == position]
            axes.scatter(mine[:, 0], mine[:, 1], s=20, c=colour, marker=marker, alpha=0.55, lw=0)
            axes.scatter(
                centre_S2[position, :1],
                centre_S2[position, 1:],
                s=190,
                c=colour,
                marker=marker,
                ec=INK,
                lw=1.8,
                zorder=3,
                label=short(f"scenario {scenario}", 24),
            )
        plot.legend(markerscale=0.6)
        axes.set_xlabel(
            f"first principal component ({percent(explained[0], digits=0)} of variance)"
        )
        axes.set_ylabel(f"second ({percent(explained[1], digits=0)})")
        axes.xaxis.set_major_formatter("")
        axes.yaxis.set_major_formatter("")
        return plot.to_svg(
            name="preferences",
            label=f"Map of {len(point_Q2)} preferences in {len(scenarios)} scenarios, by the first "
            f"two principal components; the large marks are {centre}.",
        )


def _heat(axes: Axes, values_MN: Floats, *, top: float) -> None:
    """Draw an image whose strength is transparency, so that it suits light and dark paper."""
    image = np.zeros((*values_MN.shape, 4))
    image[..., :3] = HEAT_RGB
    image[..., 3] = np.clip(values_MN / top, 0, 1) if top > 0 else 0
    axes.imshow(image, interpolation="none", aspect="auto")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=GRID)
