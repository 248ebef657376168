"""The MLflow tracking server: the settings of a training, and a curve per metric.

Tracking is for looking at. What a model is and how well it does stands in its artifact, so a server
that is gone costs a warning, never a training.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from components.adapters.mlflow_client import experiment, without_secrets
from perscen.errors import Preempted
from perscen.training.records import EpochRecord

logger = logging.getLogger(__name__)
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs

EXPERIMENT: Final = "perscen"
_AT_ONCE: Final = 100
"""Parameters MLflow takes in one call."""
_FOREIGN: Final = re.compile(r"[^\w\-. /:]")
"""What MLflow refuses in the name of a metric."""


class Tracker:
    """A training's run in MLflow; takes note of each epoch, and keeps what it could not send."""

    def __init__(self, *, monitor_k: int, tracking_uri: str | None) -> None:
        self._monitor_k = monitor_k
        self._tracking_uri = tracking_uri or mlflow.get_tracking_uri()
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._experiment_id = ""
        self._unsent: list[Metric] = []

    @property
    def ids(self) -> dict[str, str]:
        """Where MLflow keeps the run; empty when its server was not reached."""
        if not self._run_id:
            return {}
        return {"mlflow_experiment_id": self._experiment_id, "mlflow_run_id": self._run_id}

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        """Take no note of single steps."""

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        """Log the loss of an epoch of the pre-training."""
        self._log({"pretraining_loss": loss}, epoch=epoch)

    def epoch_done(self, record: EpochRecord) -> None:
        """Log the losses, the recall and the use of the codebook per scenario."""
        self._log(epoch_metrics(record, k=self._monitor_k), epoch=record.epoch)

    def start(self, *, tags: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        """Open a run with its tags and parameters."""
        self._try("start a run", lambda: self._start(tags, settings))

    def end(self, status: str) -> None:
        """Send what is left, and close the run as FINISHED, FAILED or KILLED."""
        if self._run_id:
            self._client = self._client or MlflowClient(self._tracking_uri)
            self._try("end the run", lambda: self._end(status))

    def _log(self, values: Mapping[str, float], *, epoch: int) -> None:
        now = time.time_ns() // 1_000_000
        self._unsent += [Metric(name, value, now, epoch) for name, value in values.items()]
        if self._client is not None:
            self._try("log metrics", self._send)

    def _start(self, tags: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        client = MlflowClient(self._tracking_uri)
        self._experiment_id = experiment(client, EXPERIMENT, tracking_uri=self._tracking_uri)
        self._run_id = client.create_run(self._experiment_id, tags=dict(tags)).info.run_id
        self._client = client
        log_settings(client, self._run_id, settings)

    def _send(self) -> None:
        assert self._client is not None
        self._client.log_batch(self._run_id, metrics=self._unsent)
        self._unsent = []

    def _end(self, status: str) -> None:
        assert self._client is not None
        if self._unsent:
            self._send()
        self._client.set_terminated(self._run_id, status)

    def _try(self, action: str, call: Callable[[], None]) -> None:
        with trying(action, tracking_uri=self._tracking_uri, give_up=self._give_up):
            call()

    def _give_up(self, _: Exception, told: Mapping[str, str]) -> None:
        # One warning, and no further call until the end: each may wait for minutes.
        self._client = None
        logger.warning("tracking server not reached, training goes on", extra=told)


@contextmanager
def trying(
    action: str,
    *,
    tracking_uri: str,
    give_up: Callable[[Exception, Mapping[str, str]], None],
) -> Iterator[None]:
    """Do what is for looking at alone: trouble with MLflow ends it, and goes no further.

    Args:
        action: What is done.
        tracking_uri: The server's address.
        give_up: Called with the error, and with what a log line may say of it.
    """
    try:
        with warnings.catch_warnings():
            # MLflow uses what newer SQLAlchemy releases call deprecated: not ours to mend.
            warnings.simplefilter("ignore")
            yield
    except (MlflowException, SQLAlchemyError, OSError) as exc:
        address, reason = without_secrets(tracking_uri), without_secrets(str(exc))[:300]
        give_up(exc, {"action": action, "address": address, "reason": reason})


@contextmanager
def tracking(
    *,
    tags: Mapping[str, str],
    settings: Mapping[str, Any],
    monitor_k: int,
    tracking_uri: str | None = None,
) -> Iterator[Tracker]:
    """Give a tracker whose run ends as the block does.

    Args:
        tags: Whose run it is.
        settings: Sections by name; logged as dotted parameters.
        monitor_k: The K of the recall.
        tracking_uri: The MLflow address; MLflow's own choice by default (``MLFLOW_TRACKING_URI``,
            else ``sqlite:///mlflow.db``).
    """
    tracker = Tracker(monitor_k=monitor_k, tracking_uri=tracking_uri)
    tracker.start(tags=tags, settings=settings)
    status = "KILLED"
    try:
        yield tracker
        status = "FINISHED"
    except Exception as exc:
        status = "KILLED" if isinstance(exc, Preempted) else "FAILED"
        raise
    finally:
        tracker.end(status)


def epoch_metrics(record: EpochRecord, *, k: int) -> dict[str, float]:
    """Return an epoch's numbers under MLflow's names, such as ``recall_100/<scenario>``."""
    per_scenario = {
        f"recall_{k}": {**record.recall, "macro": record.macro_recall},
        "code_usage": record.code_usage,
        "code_perplexity": record.code_perplexity,
    }
    return {
        "loss": record.loss,
        "task_loss": record.task_loss,
        "auxiliary_loss": record.auxiliary_loss,
        **{
            metric_name(f"{metric}/{scenario}"): value
            for metric, values in per_scenario.items()
            for scenario, value in values.items()
        },
    }


def metric_name(name: str) -> str:
    """Return a metric's name as MLflow takes it: a scenario may be called anything."""
    return _FOREIGN.sub("_", name)


def log_settings(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    """Log nested settings as parameters under dotted names."""
    params = [Param(name, str(value)) for name, value in _flatten(settings)]
    for first in range(0, len(params), _AT_ONCE):
        client.log_batch(run_id, params=params[first : first + _AT_ONCE])


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested settings under dotted names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
