"""A checkpoint that an interrupted training goes on from as if nothing had happened."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from perscen.models.ranks import rank
from perscen.training.distributed import bytes_from_rank_0

logger = logging.getLogger(__name__)

_NAME: Final = "checkpoint.pt"
_SEAL_BYTES: Final = 64


class Checkpoint:
    """One file in a directory that outlives the process.

    In a training shared by several ranks, rank 0 alone reads and writes it; the directory need not
    be seen from other machines.

    Args:
        directory: Where it lies; made when first needed.
        fingerprint: What the training follows from (splits, settings, seed, code). A checkpoint
            with another one is not taken up.
        every_s: Seconds between two writings.
    """

    def __init__(self, directory: Path, *, fingerprint: str, every_s: float) -> None:
        self._directory = directory
        self._path = directory / _NAME
        self._fingerprint = fingerprint
        self._every_s = every_s
        self._written_at = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time to write again."""
        return rank() == 0 and time.monotonic() - self._written_at >= self._every_s

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state in place of the last one, whole or not at all.

        Raises:
            OSError: The disk is full or not writable; the last checkpoint stays.
        """
        if rank() != 0:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        # Through memory: torch turns a full disk into an error that no longer says so.
        buffer = io.BytesIO()
        torch.save({"fingerprint": self._fingerprint, "state": dict(state)}, buffer)
        scratch = self._path.with_suffix(".new")
        try:
            with scratch.open("wb") as file:
                file.write(_seal(buffer.getbuffer()))
                file.write(buffer.getbuffer())
            scratch.replace(self._path)
        finally:
            scratch.unlink(missing_ok=True)
        self._written_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state on the CPU, the same on every rank; None when there is none of this."""
        reads = rank() == 0 and self._path.exists()
        content = memoryview(bytes_from_rank_0(self._path.read_bytes() if reads else b""))
        if not content:
            return None
        seal, payload = content[:_SEAL_BYTES], content[_SEAL_BYTES:]
        if bytes(seal) != _seal(payload):
            logger.warning("checkpoint is not whole, starting afresh", extra={"size": len(content)})
            return None
        saved = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        if saved["fingerprint"] != self._fingerprint:
            logger.info("checkpoint of other data, settings or code, starting afresh")
            return None
        return dict(saved["state"])


def _seal(payload: memoryview) -> bytes:
    """Return the digest that goes in front: a file cut short or changed is then told at once."""
    return hashlib.sha256(payload).hexdigest().encode()
