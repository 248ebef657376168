"""Where a release is: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from components.adapters.registry import Registry
from perscen.errors import ConfigError
from perscen.retrieval.bundle import Bundle, open_bundle

_SCHEME: Final = "models:/"


def resolve_bundle(
    address: str, *, tracking_uri: str | None = None, cache: Path | None = None
) -> Bundle:
    """Return the verified local bundle at an address.

    Args:
        address: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or a directory.
        tracking_uri: As for :class:`Registry`.
        cache: As for :class:`Registry`.

    Raises:
        ConfigError: The address is none of these, or there is no such release.
        ArtifactError: The bundle is not what was released.
    """
    if not address.startswith(_SCHEME):
        return open_bundle(Path(address))
    name, separator, selector = address.removeprefix(_SCHEME).partition("@")
    if not separator:
        name, separator, selector = name.partition("/")
    if not (name and selector):
        raise ConfigError(
            f"{address!r} is no address of a release",
            hint="write models:/perscen@champion, models:/perscen/3 or a directory",
        )
    return Registry(name, tracking_uri=tracking_uri, cache=cache).resolve(selector)
