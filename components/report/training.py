"""What training wrote down: loss, validation recall, and how the codebook was used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.report import figures, maps
from components.report.drawing import ACCENT, series
from components.report.page import Cell, Column, Figure, Section, Table
from components.report.words import count, listed, percent, whole
from perscen.diagnostics.looking import HistoryCodes, overlap_table
from perscen.evaluation.metrics import perplexity
from perscen.manifests import ModelManifest


def training_section(
    epochs: Sequence[Mapping[str, Any]], *, model: ModelManifest, scenarios: Sequence[str]
) -> Section:
    """Return the section on training, from ``epochs.json``."""
    title = "Training"
    if not epochs:
        return Section(
            anchor="training",
            title=title,
            missing=f"The model ({model.family}) was not trained in epochs: there are no curves.",
        )
    numbers = [int(e["epoch"]) for e in epochs]
    recall = {f"scenario {s}": [e["recall"][s] for e in epochs] for s in scenarios}
    best = next(e for e in epochs if e["epoch"] == model.best_epoch)
    losses = [float(e["loss"]) for e in epochs]
    reached = "; ".join(f"scenario {s} {percent(best['recall'][s])}" for s in scenarios)
    return Section(
        anchor="training",
        title=title,
        paragraphs=(
            f"{count(model.num_parameters, 'parameter')} trained for "
            f"{count(len(epochs), 'epoch')}. The weights of epoch {model.best_epoch} are kept: "
            "there the unweighted mean of validation recall over scenarios is highest "
            f"({percent(best['macro_recall'])}).",
        ),
        figures=(
            Figure(
                figures.curves(
                    {"loss": losses},
                    epochs=numbers,
                    best_epoch=model.best_epoch,
                    title="Training loss",
                    name="loss",
                    label=f"Training loss over {count(len(epochs), 'epoch')}, from "
                    f"{losses[0]:.4g} to {losses[-1]:.4g}.",
                    shares=False,
                    colours=[(ACCENT, "o")],
                )
            ),
            Figure(
                figures.curves(
                    recall,
                    epochs=numbers,
                    best_epoch=model.best_epoch,
                    title="Validation recall",
                    name="valid-recall",
                    label=f"Validation recall over {count(len(epochs), 'epoch')}; at the best, "
                    f"{model.best_epoch}: {reached}.",
                    shares=True,
                    colours=[series(n) for n in range(len(scenarios))],
                )
            ),
        ),
    )


def codes_section(
    epochs: Sequence[Mapping[str, Any]],
    counts: Mapping[str, Sequence[int]],
    *,
    model: ModelManifest,
    scenarios: Sequence[str],
    seen: HistoryCodes | None = None,
) -> Section:
    """Return the section on the codebook, from ``code_counts.json`` and ``epochs.json``.

    Args:
        epochs: What is known of each epoch.
        counts: Validation queries with clicks in their scenario on each code.
        model: What the model says of itself.
        scenarios: Their names.
        seen: What the codebook does with validation queries that have clicks in their scenario.
    """
    anchor, title = "codes", "Codes per scenario"
    if not any(counts.get(s) for s in scenarios):
        return Section(
            anchor, title, missing=f"The model ({model.family}) has no codebook: nothing to count."
        )
    count_KS = np.array([counts[s] for s in scenarios], dtype=np.int64).T
    total_S = np.maximum(count_KS.sum(axis=0), 1)
    share_KS = count_KS / total_S
    unused = [n for n, row in enumerate(count_KS) if not row.any()]
    best = next((e for e in epochs if e["epoch"] == model.best_epoch), {})
    drawn = [Figure(maps.code_map(share_KS, scenarios=scenarios))]
    if all(e.get("code_usage") for e in epochs) and epochs:
        drawn.append(_usage_curve(epochs, model=model, scenarios=scenarios))
    return Section(
        anchor,
        title,
        paragraphs=(
            "Each query's scenario history falls on one code of a codebook shared by all "
            "scenarios. The map shows which share of a scenario's validation queries with such a "
            "history each code took; scenarios that differ in taste differ in column.",
            _unused(unused),
            *([] if seen is None else [_spread(seen)]),
        ),
        figures=tuple(drawn),
        tables=(
            _usage_table(count_KS, best=best, scenarios=scenarios),
            *([] if seen is None else [_shared_table(seen, scenarios)]),
        ),
    )


def _spread(seen: HistoryCodes) -> str:
    return (
        "What enters the codebook spreads around its mean by "
        f"{percent(seen.spread)} of that mean's length; near zero, a history would say nothing "
        "whatever its code. The squared distance to the own code is "
        f"{percent(seen.distortion)} of the variance."
    )


def _shared_table(seen: HistoryCodes, scenarios: Sequence[str]) -> Table:
    rows = overlap_table(seen, names=tuple(scenarios)).iter_rows(named=True)
    return Table(
        "Codes that scenarios share, of validation queries with clicks in their scenario; a "
        "divergence (Jensen-Shannon, in bits: 0 alike, 1 apart) below chance shows no difference",
        (
            Column("Scenario", numeric=False),
            Column("Richer one", numeric=False),
            Column("Queries"),
            Column("On its codes"),
            Column("Divergence"),
            Column("By chance"),
        ),
        tuple(
            (
                Cell(row["sparse"]),
                Cell(row["rich"]),
                Cell(whole(row["queries"])),
                Cell(percent(row["on_shared_codes"])),
                Cell(f"{row['divergence']:.3f}"),
                Cell(f"{row['by_chance']:.3f}"),
            )
            for row in rows
        ),
    )


def _unused(codes: Sequence[int]) -> str:
    if not codes:
        return "Every code is used in some scenario."
    text = f"{count(len(codes), 'code is', 'codes are')} used in no scenario"
    return f"{text}: {listed([str(n) for n in codes])}." if len(codes) <= 12 else f"{text}."


def _usage_curve(
    epochs: Sequence[Mapping[str, Any]], *, model: ModelManifest, scenarios: Sequence[str]
) -> Figure:
    usage = {f"scenario {s}": [float(e["code_usage"][s]) for e in epochs] for s in scenarios}
    return Figure(
        figures.curves(
            usage,
            epochs=[int(e["epoch"]) for e in epochs],
            best_epoch=model.best_epoch,
            title="Codes in use while training",
            name="code-usage",
            label="Share of the codebook in use by epoch; at the end: "
            + "; ".join(f"{name} {percent(values[-1])}" for name, values in usage.items())
            + ".",
            shares=True,
            colours=[series(n) for n in range(len(scenarios))],
        )
    )


def _usage_table(
    count_KS: NDArray[np.int64],
    *,
    best: Mapping[str, Any],
    scenarios: Sequence[str],
) -> Table:
    num_codes = len(count_KS)
    rows = []
    for n, s in enumerate(scenarios):
        used = int((count_KS[:, n] > 0).sum())
        share = best.get("code_usage", {}).get(s, used / num_codes)
        varied = best.get("code_perplexity", {}).get(s, perplexity(count_KS[:, n]))
        rows.append(
            (
                Cell(s),
                Cell(whole(int(count_KS[:, n].sum()))),
                Cell(f"{used} of {num_codes}"),
                Cell(percent(share)),
                Cell(whole(num_codes - used)),
                Cell(f"{varied:.1f}"),
            )
        )
    return Table(
        f"Use of the codebook; a perplexity of {num_codes} would be perfectly even",
        (
            Column("Scenario", numeric=False),
            Column("Queries"),
            Column("Codes used"),
            Column("Share"),
            Column("Dead"),
            Column("Perplexity"),
        ),
        tuple(rows),
    )
