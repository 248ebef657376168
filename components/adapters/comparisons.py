"""The runs of a comparison in MLflow: each is logged once, whole, when it is finished.

Tracking is for looking at: a server that is gone costs a warning, as does a run that it refuses,
and what it missed is logged the next time the comparison is run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from components.adapters.mlflow_client import experiment, refused
from components.adapters.tracking import epoch_metrics, log_settings, metric_name, trying
from perscen.training.records import EpochRecord

logger = logging.getLogger(__name__)

EXPERIMENT: Final = "perscen-compare"
KEY: Final = "perscen.compare.key"
"""Tag by which a run is known; its artifact says which splits it is on."""
_AT_ONCE: Final = 1_000
"""Metrics MLflow takes in one call."""


class ComparisonLog:
    """An experiment in which every key is logged once."""

    def __init__(self, *, tracking_uri: str | None = None) -> None:
        self._tracking_uri = tracking_uri or mlflow.get_tracking_uri()
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._logged: set[str] = set()
        with self._talking("open the experiment"):
            client = MlflowClient(self._tracking_uri)
            self._experiment_id = experiment(client, EXPERIMENT, tracking_uri=self._tracking_uri)
            self._logged = set(_finished_keys(client, self._experiment_id))
            self._client = client

    def log(
        self,
        key: str,
        *,
        tags: Mapping[str, str],
        settings: Mapping[str, Any],
        metrics: Mapping[str, float],
        epochs: Sequence[EpochRecord],
        monitor_k: int,
        files: Sequence[Path],
    ) -> None:
        """Log a finished run, unless it is there.

        Args:
            key: What it is known by.
            tags: Further tags.
            settings: Sections by name; logged as dotted parameters.
            metrics: What it came to.
            epochs: The training curve.
            monitor_k: The K of the curve's recall.
            files: Kept as artifacts.
        """
        if self._client is None or key in self._logged:
            return
        now = time.time_ns() // 1_000_000
        told = [Metric(metric_name(name), value, now, 0) for name, value in metrics.items()]
        told += [
            Metric(f"valid/{name}", value, now, record.epoch)
            for record in epochs
            for name, value in epoch_metrics(record, k=monitor_k).items()
        ]
        with self._talking(f"log {key}"), self._run({**tags, KEY: key}) as run_id:
            log_settings(self._client, run_id, settings)
            for first in range(0, len(told), _AT_ONCE):
                self._client.log_batch(run_id, metrics=told[first : first + _AT_ONCE])
            for path in files:
                self._client.log_artifact(run_id, str(path))
            self._logged.add(key)

    @contextmanager
    def _run(self, tags: Mapping[str, str]) -> Iterator[str]:
        """Give a new run, which is FINISHED once all of it is there; any other is logged again."""
        assert self._client is not None
        run_id = self._client.create_run(self._experiment_id, tags=dict(tags)).info.run_id
        try:
            yield run_id
            self._client.set_terminated(run_id, "FINISHED")
        except MlflowException as exc:
            if refused(exc):  # it is still there to be told
                self._client.set_terminated(run_id, "FAILED")
            raise

    def _talking(self, action: str) -> AbstractContextManager[None]:
        return trying(action, tracking_uri=self._tracking_uri, give_up=self._give_up)

    def _give_up(self, error: Exception, told: Mapping[str, str]) -> None:
        happened = "refused a run"
        if not refused(error):
            # One warning, and no further call: each may wait for minutes.
            self._client = None
            happened = "not reached"
        logger.warning(f"tracking server {happened}, the comparison goes on", extra=told)


def _finished_keys(client: MlflowClient, experiment_id: str) -> Iterator[str]:
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [experiment_id], "attributes.status = 'FINISHED'", page_token=token or None
        )
        yield from (run.data.tags[KEY] for run in page if KEY in run.data.tags)
        token = page.token or None
