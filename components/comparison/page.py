"""A comparison in words and tables, as Markdown; the tables have the layout of the paper's.

Shares are in percent here and fractions in the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from components.comparison.results import Difference, Results
from components.report.words import cell_text
from perscen.experiments.cells import first_and_second
from perscen.experiments.rows import Block
from perscen.experiments.significance import LEVEL, MACRO, RESAMPLES, Estimate

_ABOVE, _BELOW = "▲", "▼"


def page(results: Results, figures: Mapping[str, str]) -> str:
    """Return what stands between a page's marks.

    Args:
        results: The table with its numbers.
        figures: Where each figure lies, as seen from the page, by what it shows.
    """
    lines = [*_head(results), ""]
    for name in ("recall", "hits"):
        lines += [*_levels(results, name), ""]
    for metric in (f"recall_{k}" for k in results.ks):
        lines += _differences(results, metric)
    for shown, place in figures.items():
        lines += [f"![{_alternative(shown)}]({place})", ""]
    lines += _costs(results)
    return "\n".join(lines) + "\n"


def _head(results: Results) -> Iterator[str]:
    yield (
        f"Splits `{results.splits_digest[:12]}`. Mean ± standard deviation over n trainings with "
        "different seeds; **best** and <ins>second best</ins> of each block."
    )
    subjects = {block.subject for block in results.table.blocks}
    if any(difference.row in subjects for difference in results.differences):
        yield (
            f"{_ABOVE} and {_BELOW} stand with a row that is above or below the best other row of "
            f"its block (chosen by its mean) by a difference whose {100 * LEVEL:.0f} % interval "
            "leaves out zero, both with more than one training."
        )
    if results.differences:
        yield (
            "Intervals and p-values (two-sided, not adjusted for how many there are) are from a "
            f"paired bootstrap of users, {RESAMPLES:,} resamples, and from what seeds differ by "
            "(Student's t)."
        )
        if any(_trained_once(results, row) for row in results.facts):
            yield (
                "Where n is 1 they hold the chance of users alone: another training may well end "
                "outside."
            )
    revisions = {f.revision: None for facts in results.facts.values() for f in facts if f.revision}
    if len(revisions) > 1:
        short = ", ".join(revision[:7] for revision in revisions)
        yield f"Runs of {len(revisions)} revisions of the code: {short}."
    if results.lacking:
        told = (f"{row} {has} of {wanted}" for row, (has, wanted) in results.lacking.items())
        yield ""
        yield f"**Not whole yet**, runs so far: {', '.join(told)}."


def _trained_once(results: Results, row: str) -> bool:
    facts = results.facts[row]
    return len(facts) == 1 and facts[0].best_epoch is not None


def _levels(results: Results, name: str) -> Iterator[str]:
    yield f"**{name.capitalize()}@K, percent**"
    yield ""
    heads = [
        f"{_scenario_head(results, scenario)} {name[0].upper()}@{k}"
        for scenario in results.columns
        for k in results.ks
    ]
    yield f"| model | n | {' | '.join(heads)} |"
    yield "|---|---:|" + "---:|" * len(heads)
    many = len(results.table.blocks) > 1
    for block in results.table.blocks:
        rows = [row for row in block.rows if results.facts[row]]
        if many and rows:
            yield f"| *{block.title}* |" + " |" * (len(heads) + 1)
        for row in rows:
            shown = [
                _level(results, block, row, f"{name}_{k}", scenario)
                for scenario in results.columns
                for k in results.ks
            ]
            num = len(results.facts[row])
            yield f"| {_title(results, block, row)} | {num} | {' | '.join(shown)} |"


def _title(results: Results, block: Block, row: str) -> str:
    """Return what a row is called: in a sweep, by its value, for several share the middle one."""
    for sweep in results.table.sweeps:
        for value, name in sweep.points.items():
            if sweep.title == block.title and name == row:
                return f"{sweep.title} {value:g}"
    return cell_text(results.rows[row].title)


def _alternative(shown: str) -> str:
    """Return what stands for a figure that is not seen; brackets would end it."""
    return cell_text(re.sub(r"([\\\[\]])", r"\\\1", shown))


def _scenario_head(results: Results, scenario: str) -> str:
    if scenario == MACRO:
        return MACRO
    return f"{cell_text(scenario)} ({results.num_users[scenario]:,} users)"


def _level(results: Results, block: Block, row: str, metric: str, scenario: str) -> str:
    cell = results.cells[row, metric, scenario]
    text = f"{100 * cell.mean:.2f}"
    if cell.sd is not None:
        text += f" ± {100 * cell.sd:.2f}"
    first, second = first_and_second(results.cells, block.rows, metric, scenario)
    if row in first:
        text = f"**{text}**"
    elif row in second:
        text = f"<ins>{text}</ins>"
    other = results.best_other(row, metric, scenario) if row == block.subject else None
    if other is not None and not any(_trained_once(results, name) for name in (row, other)):
        sign = results.difference(row, other, metric, scenario).sign
        text += {1: f" {_ABOVE}", -1: f" {_BELOW}"}.get(sign, "")
    return text


def _differences(results: Results, metric: str) -> Iterator[str]:
    title = metric.replace("_", "@").capitalize()
    subjects = [block.subject for block in results.table.blocks]
    for subject in subjects:
        mine = [d for d in results.differences if d.row == subject]
        if mine:
            head = f"`{subject}` minus …, {title}, percentage points"
            yield from _difference_table(results, metric, head, [(f"`{d.other}`", d) for d in mine])
    beside = [
        d
        for d in results.differences
        if results.rows[d.row].beside == d.other and d.row not in subjects
    ]
    if beside:
        head = f"Change against the row named after it, {title}, percentage points"
        labelled = [(f"`{d.row}` − `{d.other}`", d) for d in beside]
        yield from _difference_table(results, metric, head, labelled)


def _difference_table(
    results: Results, metric: str, head: str, labelled: Sequence[tuple[str, Difference]]
) -> Iterator[str]:
    yield f"**{head}**"
    yield ""
    heads = [cell_text(scenario) for scenario in results.columns]
    yield f"| row | {' | '.join(heads)} | ratio of macros |"
    yield "|---|" + "---:|" * (len(results.columns) + 1)
    for label, difference in labelled:
        shown = [_difference(difference.estimates[metric, s]) for s in results.columns]
        levels = [results.cells[r, metric, MACRO].mean for r in (difference.row, difference.other)]
        ratio = f"{levels[0] / levels[1]:.2f}" if levels[1] else "–"
        yield f"| {label} | {' | '.join(shown)} | {ratio} |"
    yield ""


def _difference(estimate: Estimate) -> str:
    text = f"{100 * estimate.value:+.2f}"
    if estimate.low is None or estimate.high is None or estimate.p_value is None:
        return f"{text} (too few users)"
    text += f" [{100 * estimate.low:+.2f}, {100 * estimate.high:+.2f}]"
    p_value = "p < 0.001" if estimate.p_value < 0.001 else f"p = {estimate.p_value:.3f}"
    return f"{text} {p_value}"


def _costs(results: Results) -> Iterator[str]:
    trained = {row: f for row, f in results.facts.items() if f and f[0].best_epoch is not None}
    if not trained:
        return
    ks = {row: f[0].settings["train"]["monitor_k"] for row, f in trained.items()}
    same = len(set(ks.values())) == 1
    metric = f"Recall@{next(iter(ks.values()))}" if same else "recall"
    yield (
        f"| row | trainings | best epochs | their macro {metric} in validation, percent "
        "| parameters | CPU seconds per training, mean |"
    )
    yield "|---|---:|---|---|---:|---:|"
    for row, facts in trained.items():
        epochs = ", ".join(str(one.best_epoch) for one in facts)
        judged = [one.validation_recall for one in facts]
        recall = ", ".join("–" if r is None else f"{100 * r:.2f}" for r in judged)
        recall += "" if same else f" (Recall@{ks[row]})"
        spent = [one.train_cpu_s for one in facts if one.train_cpu_s is not None]
        parameters = f"{facts[0].num_parameters:,}" if facts[0].num_parameters else "–"
        mean = f"{sum(spent) / len(spent):,.0f}" if spent else "–"
        yield f"| {row} | {len(facts)} | {epochs} | {recall} | {parameters} | {mean} |"
