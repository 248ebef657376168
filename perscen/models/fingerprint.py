"""The fingerprint of the space two towers share: vectors of two spaces must never meet."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

METRIC: Final = "inner_product"
MODEL_FILES: Final = (
    "model.json",
    "scalers.json",
    "schema.json",
    "vocabularies.json",
    "weights.safetensors",
)


def space_fingerprint(directory: Path) -> str:
    """Return the sha256 over a saved model's weights, settings, vocabularies, scalers and metric.

    Two models of the same width differ here although nothing else would tell their vectors apart.

    Args:
        directory: What :meth:`TwoTower.save` wrote, with the vocabularies and scalers beside it.
    """
    sha = hashlib.sha256(f"{METRIC}\n".encode())
    for name in MODEL_FILES:
        with (directory / name).open("rb") as file:
            sha.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return sha.hexdigest()
