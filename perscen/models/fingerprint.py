"""The space fingerprint: which vectors may meet in one inner product."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch

from perscen.models.two_tower import TwoTower

METRIC = "inner_product"


def space_fingerprint(model: TwoTower, vocabularies: Mapping[str, Sequence[str]]) -> str:
    """Return the sha256 of both towers' weights and settings, the vocabularies, width and metric.

    Two models with the same fingerprint give the same vectors to the same users and items; a user
    tower and an index whose fingerprints differ must never meet.
    """
    digest = hashlib.sha256()
    head = {"dim": model.dim, "metric": METRIC, "family": model.family}
    # Without defaults, so that a setting which a later version adds leaves older models theirs.
    settings = model.config.model_dump(mode="json", exclude_defaults=True)
    for part in (head, settings, {name: list(values) for name, values in vocabularies.items()}):
        digest.update(json.dumps(part, sort_keys=True, ensure_ascii=False).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
