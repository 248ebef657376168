"""Put every item's vector into one index per scenario."""

from __future__ import annotations

import torch

from components.runner import Task
from perscen.config import IndexConfig
from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Splits
from perscen.manifests import IndexesManifest
from perscen.models.families import load_model
from perscen.retrieval.exact import catalogue_vectors, query_vectors
from perscen.retrieval.index import build_index, write_index


def run(task: Task, *, index: IndexConfig) -> IndexesManifest:
    """Encode the catalogue once per scenario, and measure approximate indexes before shipping them.

    Raises:
        ArtifactError: The model gives vectors that are not finite.
    """
    manifest = task.inputs["model"].manifest
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(task.inputs["model"].path).to(device)
    splits = Splits.open(task.inputs["splits"].path)
    vectors_SVG = catalogue_vectors(model, ItemSource(splits.items, device=device))
    users = UserSource(splits, device=device)
    query_BG = query_vectors(model, users, splits.valid, splits.valid_slices)
    scenario_B = torch.tensor(splits.valid.scenario, device=query_BG.device)
    records = {}
    for number, scenario in enumerate(splits.schema.scenarios):
        built = build_index(vectors_SVG[number], query_BG[scenario_B == number], config=index)
        write_index(
            task.output,
            built,
            splits.items.ids,
            scenario=scenario,
            fingerprint=manifest.fingerprint,
            model_digest=manifest.digest,
        )
        records[scenario] = built.record
    return IndexesManifest(
        **task.stamp,
        model_digest=manifest.digest,
        fingerprint=manifest.fingerprint,
        dim=model.dim,
        indexes=records,
    )
