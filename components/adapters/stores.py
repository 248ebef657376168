"""What goes wrong between us and a store of files, in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from botocore import exceptions as boto  # type: ignore[import-untyped]

from perscen.errors import ConfigError, ServiceUnavailable
from perscen.staging import is_full, storage_full

_REFUSED: Final = (
    boto.CredentialRetrievalError,
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    PermissionError,
)
_NO_SETTING: Final = (
    boto.ConfigNotFound,
    boto.ConfigParseError,
    boto.ParamValidationError,
    boto.ProfileNotFound,
)


@contextmanager
def talking(action: str, *, fills: Path | None = None) -> Iterator[None]:
    """Translate what a store, the network and the disk raise while doing ``action``.

    Args:
        action: What is done with which address.
        fills: A file on the disk that is written to.

    Raises:
        ConfigError: The store refuses us, or what we know of it is wrong.
        ServiceUnavailable: It does not answer.
        StorageFull: The disk is full.
    """
    try:
        yield
    except _REFUSED as exc:
        raise ConfigError(
            f"not allowed to {action}: {exc}",
            hint="give the process AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role that "
            "may list, read, write and delete there; of a folder, the rights",
        ) from exc
    except _NO_SETTING as exc:
        raise ConfigError(
            f"could not {action}: {exc}", hint="check the address, and what AWS_* says"
        ) from exc
    except (boto.BotoCoreError, boto.ClientError, OSError) as exc:
        if fills is not None and is_full(exc):
            raise storage_full(exc, fills) from exc
        raise ServiceUnavailable(
            f"could not {action}: {exc}",
            hint="check that the store can be reached, and try again",
        ) from exc


def no_bucket(address: str, bucket: str) -> ConfigError:
    """Return the error for an address in a bucket that does not exist."""
    return ConfigError(
        f"there is no bucket {bucket!r} for {address}",
        hint="make the bucket, or check the address and AWS_ENDPOINT_URL",
    )
