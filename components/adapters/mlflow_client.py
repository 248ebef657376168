"""Talking to MLflow: a client on a checked address, and its errors in our words."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from perscen.errors import ArtifactError, ConfigError, PerscenError, ServiceUnavailable
from perscen.staging import is_full

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs

_SQLITE: Final = "sqlite:///"
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_CREDENTIALS: Final = re.compile(r"://[^/\s]*@")
_CALLERS_FAULT: Final = frozenset(
    {
        "BAD_REQUEST",
        "ENDPOINT_NOT_FOUND",
        "INVALID_PARAMETER_VALUE",
        "PERMISSION_DENIED",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client.

    Raises:
        ConfigError: The address cannot be one of an MLflow server or database.
        ServiceUnavailable: It does not answer.
    """
    # MLflow retries a database that cannot be opened for hours; what is plainly wrong is said here.
    database = sqlite_file(tracking_uri)
    if database is not None and not database.parent.is_dir():
        raise ConfigError(
            f"MLflow's database {database} cannot be made: {database.parent} does not exist",
            hint="set MLFLOW_TRACKING_URI to a database in a directory that exists",
        )
    if database is not None and database.is_file() and database.stat().st_size:
        with database.open("rb") as file:
            if file.read(len(_SQLITE_MAGIC)) != _SQLITE_MAGIC:
                raise ConfigError(
                    f"{database} is not an SQLite database",
                    hint="set MLFLOW_TRACKING_URI to MLflow's own database or server",
                )
    with talking("open the registry", tracking_uri=tracking_uri):
        return MlflowClient(tracking_uri)


def sqlite_file(tracking_uri: str) -> Path | None:
    """Return the absolute path of an SQLite address; None for any other."""
    if not tracking_uri.startswith(_SQLITE) or tracking_uri == _SQLITE:
        return None
    return Path(tracking_uri.removeprefix(_SQLITE)).resolve()


def experiment(client: MlflowClient, name: str, *, tracking_uri: str) -> str:
    """Return the id of an experiment, which is made when there is none.

    Its files lie beside the database, wherever the program runs; a server has its own place.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    database = sqlite_file(tracking_uri)
    place = None if database is None else database.with_name("mlartifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def without_secrets(text: str) -> str:
    """Return a text in which no address has a user and a password: ``***@`` stands for them."""
    return _CREDENTIALS.sub("://***@", text)


@contextmanager
def talking(action: str, *, tracking_uri: str) -> Iterator[None]:
    """Translate what MLflow and the network raise while doing ``action``.

    Raises:
        ConfigError: MLflow refused the request as it was put.
        ServiceUnavailable: MLflow or its store of files did not answer, or answered with a fault.
    """
    try:
        yield
    except (MlflowException, OSError, SQLAlchemyError) as exc:
        if is_full(exc):
            raise  # a full disk of ours; whoever writes the output says so
        if isinstance(exc, MlflowException):
            message = f"could not {action} at {tracking_uri}: {exc.message}"
            raise _translate(exc, without_secrets(message)) from exc
        raise ServiceUnavailable(
            without_secrets(f"could not {action} at {tracking_uri}: {exc}"),
            hint="check that the registry and its store of files can be reached, and try again",
        ) from exc


def download(source: str, *, to: str, tracking_uri: str) -> str:
    """Copy what is stored at ``source`` below the directory ``to``, and return where it lies.

    Raises:
        ArtifactError: Nothing is stored there.
        MlflowException: Anything else, for :func:`talking` to translate.
    """
    try:
        place: str = download_artifacts(artifact_uri=source, dst_path=to, tracking_uri=tracking_uri)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ArtifactError(
            f"nothing is stored at {source} any more", hint="go back to another release"
        ) from exc
    return place


def refused(error: Exception) -> bool:
    """Return whether MLflow answered, and refused the request as it was put."""
    return isinstance(error, MlflowException) and error.error_code in _CALLERS_FAULT


def _translate(error: MlflowException, message: str) -> PerscenError:
    if refused(error):
        return ConfigError(
            message, hint="check MLFLOW_TRACKING_URI, the name and version, and your permissions"
        )
    return ServiceUnavailable(message, hint="check that the registry can be reached, and try again")
