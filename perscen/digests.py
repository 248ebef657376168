"""One digest for everything that is written as JSON."""

from __future__ import annotations

import hashlib
import json


def json_digest(value: object) -> str:
    """Return the sha256 of a value as JSON, the same in whatever order its keys come."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
