"""The figures of a comparison, as SVG files that stand alone."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from components.comparison.results import Results
from components.report.drawing import PAPER, PERCENT, WIDTH, drawing, series, standalone
from components.report.figures import Estimate, recalls
from components.report.words import percent, short
from perscen.experiments.rows import Sweep
from perscen.experiments.significance import MACRO


def figures(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yield each figure's name, what it shows, and its SVG document."""
    metric = f"recall_{results.ks[0]}"
    if results.table.sweeps:
        for sweep in results.table.sweeps:
            points = [v for v, row in sweep.points.items() if results.facts[row]]
            if points:
                shown = f"Recall@{results.ks[0]} over {sweep.title}"
                yield sweep.name, shown, standalone(_sweep(results, sweep, metric))
        return
    for number, scenario in enumerate(results.columns):
        shown = f"Recall@{results.ks[0]} in scenario {scenario}, with intervals"
        if scenario == MACRO:
            shown = f"Recall@{results.ks[0]}, mean over scenarios, with intervals"
        name = MACRO if scenario == MACRO else f"scenario-{number + 1}"
        yield name, shown, standalone(_levels(results, scenario, metric))


def _levels(results: Results, scenario: str, metric: str) -> Markup:
    subjects = {block.subject for block in results.table.blocks}
    several = sum(1 for block in results.table.blocks if any(results.facts[r] for r in block.rows))
    estimates = []
    for block in results.table.blocks:
        for row in block.rows:
            if not results.facts[row]:
                continue
            level = results.resampled.level(row, metric, scenario)
            recipe = results.rows[row].recipe
            trained = results.rows[row].family is not None
            title = results.rows[row].title
            # Bound to the last word, so that no line begins with the dot.
            name = f"{title}\u00a0·\u00a0{recipe}" if several > 1 and trained else title
            estimates.append(
                Estimate(name, level.value, level.low, level.high, candidate=row in subjects)
            )
    over = "mean over scenarios" if scenario == MACRO else ""
    return recalls(scenario, estimates, k=results.ks[0], over=over)


def _sweep(results: Results, sweep: Sweep, metric: str) -> Markup:
    """Return a line per scenario over the swept values, with deviations over seeds."""
    values = [v for v, row in sorted(sweep.points.items()) if results.facts[row]]
    spoken = []
    with drawing(width=WIDTH, height=340) as plot:
        axes = plot.axes
        places = range(len(values))  # evenly: values such as 0, 2, 5, 100 have no common scale
        for position, scenario in enumerate(results.columns):
            colour, marker = series(position)
            cells = [results.cells[sweep.points[v], metric, scenario] for v in values]
            means = [cell.mean for cell in cells]
            label = "macro" if scenario == MACRO else f"scenario {scenario}"
            axes.errorbar(
                places,
                means,
                yerr=[cell.sd or 0.0 for cell in cells],
                color=colour,
                marker=marker,
                ms=5,
                mec=PAPER,
                elinewidth=1,
                ls="--" if scenario == MACRO else "-",
                label=short(label, 24),
            )
            spoken.append(f"{label} " + ", ".join(percent(mean) for mean in means))
        axes.set_xticks(places, [f"{v:g}" for v in values])
        axes.set_xlabel(sweep.title)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.margins(x=0.06)
        plot.legend()
        plot.title(f"Recall@{results.ks[0]}")
        label = f"Recall at {results.ks[0]} at {sweep.title} " + ", ".join(f"{v:g}" for v in values)
        return plot.to_svg(name=f"sweep-{sweep.name}", label=f"{label}: {'; '.join(spoken)}.")
