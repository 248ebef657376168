"""Waits in Airflow's triggerer for the pods of deferred tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import aiohttp
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import TriggerEvent
from kubernetes_asyncio.client.exceptions import ApiException

from dags._pod_endings import ending


class StepPodTrigger(KubernetesPodTrigger):
    """Wakes the task when its pod has ended, or when it is time to copy the log.

    An API that does not answer is asked again: whether that goes on for too long, the task decides.
    """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return this class and its arguments."""
        _, arguments = super().serialize()
        return f"{__name__}.{type(self).__name__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: look at the pod."""
        wake_at = time.monotonic() + self.logging_interval
        while time.monotonic() < wake_at:
            if await self._has_ended():
                break
            await asyncio.sleep(self.poll_interval)
        where = {"name": self.pod_name, "namespace": self.pod_namespace}
        yield TriggerEvent({**where, "logged_until": self.last_log_time})

    async def _has_ended(self) -> bool:
        try:
            pod = await self.hook.get_pod(name=self.pod_name, namespace=self.pod_namespace)
        except (ApiException, aiohttp.ClientError, OSError) as exc:
            if getattr(exc, "status", None) == HTTPStatus.NOT_FOUND:
                return True
            self.log.warning("the Kubernetes API does not answer: %s", exc)
            return False
        end = ending(
            pod,
            container=self.base_container_name,
            now=datetime.now(UTC),
            startup_timeout_s=self.startup_timeout,
        )
        return end is not None

    async def on_kill(self) -> None:
        """Delete the pod, with its grace, when a person ends the deferred task."""
        await self.hook.delete_pod(name=self.pod_name, namespace=self.pod_namespace)
