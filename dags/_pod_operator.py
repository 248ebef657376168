"""A step's pod and the task that waits for it, in a worker or, deferred, in the triggerer.

The provider's operator retries every failure, waits forever for an evicted pod, and gives a pod up
when the API server restarts. Of it we keep what builds a pod, finds it again and reads its result;
waiting and ending are written here, once for both ways of waiting.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import ceil
from typing import Any, Final, NoReturn, TypeVar

import tenacity
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import EMPTY_XCOM_RESULT
from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from kubernetes.client import V1ObjectMeta, V1Pod
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError, ReadTimeoutError

from components.fates import Fate
from dags._pod_endings import OVERDUE, Ending, container_state, ending, is_lost
from dags._pod_trigger import StepPodTrigger
from dags._step_log import pass_on, read_line

Answer = TypeVar("Answer")
_GONE: Final = 404
_PASSING: Final = frozenset({0, None, 401, 429, 500, 502, 503, 504})
"""Statuses of an API that restarts, is overloaded, or wants a fresh token; 0 is a broken socket."""
_HOLD: Final = 'trap "exit 0" INT TERM; while true; do sleep 1; done'
"""The side-car's work; the provider's is deaf to SIGTERM and would stay for the pod's grace."""
_LOG_TIMEOUT_S: Final = (30, 60)
"""For connecting, and for a silent line: the pod is looked at then, and its log taken up again."""


class StepPodOperator(KubernetesPodOperator):
    """Runs one step as one pod and ends as `components.fates` and `dags._pod_endings` say.

    At any time one pod at most does a task's work: a try that finds the pod of an earlier one goes
    on with it, and a pod that is not to be gone on with is gone before another is made. A task that
    loses sight of its pod leaves it alone, for the next try to find.

    Args:
        result_image: Image of the side-car that holds the step's result until it is fetched.
        api_patience_s: How long the Kubernetes API may be silent before the try is given up.
        arguments: Of the provider's operator.
    """

    def __init__(
        self, *, result_image: str = "alpine:3.22", api_patience_s: int = 600, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.result_image = result_image
        self.api_patience_s = api_patience_s
        self.logged_until: str | None = None
        """Time stamp of the last line copied from the container's log."""
        self.last_error = ""

    def build_pod_request_obj(self, context: Any | None = None) -> V1Pod:
        """Return the pod to create: the template's, with a side-car as locked up as the step."""
        pod = super().build_pod_request_obj(context)
        step, *others = pod.spec.containers
        for container in others:
            if container.name == PodDefaults.SIDECAR_CONTAINER_NAME:
                container.image = self.result_image
                container.command = ["sh", "-c", _HOLD]
                container.image_pull_policy = step.image_pull_policy
                container.security_context = step.security_context
                container.resources.limits = {"memory": "32Mi"}
                container.resources.requests = {"cpu": "10m", "memory": "32Mi"}
        return pod

    def execute(self, context: Any) -> Any:
        """Find or make the step's pod, wait for its end, and return the step's result."""
        request = self.pod_request_obj = self.build_pod_request_obj(context)
        self.pod = self._ask(lambda: self.get_or_create_pod(request, context))
        if self.deferrable:
            self.convert_config_file_to_dict()
            self.invoke_defer_method()
        while True:
            pod = self._read(self.pod)
            if end := self._ending(pod):
                self._copy_log(pod)
                return self._conclude(pod, end)
            self._copy_log(pod, follow=True)
            time.sleep(self.poll_interval)

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> Any:  # noqa: ARG002
        """Go on after the trigger: end with the pod, or wait on with its log copied."""
        self.pod = V1Pod(metadata=V1ObjectMeta(name=event["name"], namespace=event["namespace"]))
        self.logged_until = event["logged_until"]
        pod = self._read(self.pod)
        self._copy_log(pod)
        if end := self._ending(pod):
            return self._conclude(pod, end)
        self.convert_config_file_to_dict()
        return self.invoke_defer_method()

    def invoke_defer_method(self, last_log_time: Any | None = None) -> NoReturn:  # noqa: ARG002
        """Leave the worker; the trigger waits on."""
        self.defer(
            trigger=StepPodTrigger(
                pod_name=self.pod.metadata.name,
                pod_namespace=self.pod.metadata.namespace,
                trigger_start_time=datetime.now(UTC),
                base_container_name=self.base_container_name,
                kubernetes_conn_id=self.kubernetes_conn_id,
                cluster_context=self.cluster_context,
                config_dict=self._config_dict,
                in_cluster=self.in_cluster,
                poll_interval=self.poll_interval,
                startup_timeout=self.startup_timeout_seconds,
                last_log_time=self.logged_until,
                logging_interval=self.logging_interval,
            ),
            method_name="trigger_reentry",
        )

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Any) -> V1Pod:
        """Return the pod that does this work already, or a new one once no other is left.

        Asking again after an answer that got lost is safe: a pod made by the first call is found.
        """
        found: V1Pod | None = None
        selector = self._build_find_pod_label_selector(context)
        namespace = pod_request_obj.metadata.namespace
        for pod in self.client.list_namespaced_pod(namespace, label_selector=selector).items:
            end = self._ending(pod)
            leaves = pod.metadata.deletion_timestamp or (end and end.fate is Fate.RETRY)
            if found or leaves:
                self._finish(pod)
            else:
                self.log.info("going on with the pod of an earlier try: %s", pod.metadata.name)
                found = pod
        return found or self.pod_manager.create_pod(pod_request_obj)

    def _ending(self, pod: V1Pod | None) -> Ending | None:
        return ending(
            pod,
            container=self.base_container_name,
            now=datetime.now(UTC),
            startup_timeout_s=self.startup_timeout_seconds,
        )

    def _conclude(self, pod: V1Pod | None, end: Ending) -> Any:
        """Tidy up after a pod that has ended, and end the task the same way.

        Raises:
            AirflowSkipException: The step refused to release.
            AirflowFailException: Trying again would fail again; the pod is kept to be looked at.
            AirflowException: Trying again may help; the pod is gone.
        """
        reason = self.last_error or read_line(end.last_line).trouble or end.last_line
        message = f"{self.task_id}, pod {self.pod.metadata.name}: {end.why}"
        message += f": {reason}" if reason else ""
        if end.fate is Fate.FAILED:
            self._keep(pod)
            raise AirflowFailException(message)
        result = None
        try:
            if end.fate is Fate.DONE and self.do_xcom_push:
                result = self._result(pod)
        finally:
            self._finish(pod)
        if end.fate is Fate.REFUSED:
            raise AirflowSkipException(message)
        if end.fate is Fate.RETRY:
            raise AirflowException(message)
        return result

    def _result(self, pod: V1Pod) -> Any:
        text = self._ask(lambda: self.pod_manager.extract_xcom_json(pod))
        return None if text.strip() == EMPTY_XCOM_RESULT else json.loads(text)

    def _copy_log(self, pod: V1Pod | None, *, follow: bool = False) -> None:
        """Copy the lines of the container's log that are new; what cannot be read is left out."""
        state = container_state(pod, self.base_container_name) if pod is not None else None
        if state is None or not (state.running or state.terminated):
            return
        since_s = None
        if self.logged_until:
            age = datetime.now(UTC) - datetime.fromisoformat(self.logged_until)
            since_s = max(1, ceil(age.total_seconds()) + 1)
        try:
            for line in self.client.read_namespaced_pod_log(
                pod.metadata.name,
                pod.metadata.namespace,
                container=self.base_container_name,
                follow=follow,
                timestamps=True,
                since_seconds=since_s,
                _preload_content=False,
                _request_timeout=_LOG_TIMEOUT_S,
            ):
                # Every line starts with a time stamp, and all stamps are equally long.
                stamp, _, text = line.decode(errors="backslashreplace").rstrip("\n").partition(" ")
                if self.logged_until is None or stamp > self.logged_until:
                    self.last_error = pass_on(text, self.log) or self.last_error
                    self.logged_until = stamp
        except ReadTimeoutError:
            return
        except (HTTPError, ApiException) as exc:
            self.log.warning("the log of %s broke off: %s", pod.metadata.name, exc)

    def _keep(self, pod: V1Pod) -> None:
        """Let the pod be looked at, but hold no GPU, and see that no try adopts it."""
        name, namespace = pod.metadata.name, pod.metadata.namespace
        # Past its deadline, the pod's side-car is ended too; what the step's container said stays.
        body = {
            "metadata": {"labels": {self.POD_CHECKED_KEY: "True"}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        self._ask(lambda: self.client.patch_namespaced_pod(name, namespace, body))

    def _finish(self, pod: V1Pod | None) -> None:
        """Delete the pod and return when it is gone."""
        grace_s = self.termination_grace_period
        give_up_at = time.monotonic() + grace_s + OVERDUE.total_seconds()
        while pod is not None:
            if time.monotonic() > give_up_at or is_lost(pod, now=datetime.now(UTC)):
                grace_s = 0
            # Deleting again shortens the grace if it is less now, and changes nothing else.
            self._delete(pod, grace_s=grace_s)
            if pod := self._read(pod):
                time.sleep(self.poll_interval)

    def _delete(self, pod: V1Pod, *, grace_s: int) -> None:
        name, namespace = pod.metadata.name, pod.metadata.namespace
        try:
            self._ask(
                lambda: self.client.delete_namespaced_pod(
                    name, namespace, grace_period_seconds=grace_s
                )
            )
        except ApiException as exc:
            if exc.status != _GONE:
                raise

    def _read(self, pod: V1Pod) -> V1Pod | None:
        try:
            return self._ask(lambda: self.hook.get_pod(pod.metadata.name, pod.metadata.namespace))
        except ApiException as exc:
            if exc.status == _GONE:
                return None
            raise

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        """Call the Kubernetes API, and go on asking while it restarts.

        Raises:
            AirflowException: It has not answered for too long; the pod is left as it is.
        """
        asking = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_passing),
            stop=tenacity.stop_after_delay(self.api_patience_s),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
            before_sleep=self._ask_anew,
        )
        try:
            return asking(call)
        except tenacity.RetryError as exc:
            raise AirflowException(
                f"the Kubernetes API has not answered for {self.api_patience_s} s "
                f"({exc.last_attempt.exception()}); if {self.task_id} has a pod, it goes on, and "
                f"the next try goes on with it"
            ) from exc

    def _ask_anew(self, state: tenacity.RetryCallState) -> None:
        # A fresh client: the token may have run out.
        for name in ("hook", "client", "pod_manager"):
            self.__dict__.pop(name, None)
        trouble = state.outcome.exception() if state.outcome else None
        self.log.warning("the Kubernetes API does not answer, asking again: %s", trouble)


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        return error.status in _PASSING
    return isinstance(error, HTTPError)
