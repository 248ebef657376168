"""A step as a Kubernetes pod: what the deployment says, in Kubernetes' own words.

The one place where Airflow meets Kubernetes' provider; imported where steps run as pods, alone.
"""

from __future__ import annotations

from typing import Any, Final

from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults

from components.pipeline import Step
from components.render import under_torchrun
from dags._deployment import SETTINGS, Deployment, PodNeeds
from dags._pod_operator import StepPodOperator

__all__ = ["StepPodOperator", "pod_operator", "pod_template"]

CONTAINER: Final = "step"
_RESULT: Final = f"{PodDefaults.XCOM_MOUNT_PATH}/return.json"


def pod_operator(
    step: Step, *, argv: list[str], deployment: Deployment, **operator_arguments: Any
) -> StepPodOperator:
    """Return the task that runs a step's argv in a pod of its own.

    Args:
        step: Of the pipeline.
        argv: Its command line; may hold Airflow's templates, such as ``{{ ds }}``.
        deployment: What the pod gets.
        operator_arguments: Of any operator: ``task_id``, ``retries``, callbacks, outlets.
    """
    pods = deployment.pods
    arguments: dict[str, Any] = {
        "task_id": step.name,
        "namespace": pods.namespace,
        "pod_template_dict": pod_template(step, argv=argv, deployment=deployment),
        "base_container_name": CONTAINER,
        "random_name_suffix": True,
        # A kubeconfig is the one of Airflow's connection, or the user's own.
        "in_cluster": pods.cluster == "in_cluster" or None,
        "do_xcom_push": True,
        "result_image": pods.result_image,
        "deferrable": pods.deferrable,
        "poll_interval": 5,
        "logging_interval": pods.log_interval_s,
        "api_patience_s": pods.api_patience_s,
        "startup_timeout_seconds": pods.startup_timeout_s,
        "termination_grace_period": pods.termination_grace_s,
        "termination_message_policy": "FallbackToLogsOnError",
    }
    return StepPodOperator(**(arguments | operator_arguments))


def pod_template(step: Step, *, argv: list[str], deployment: Deployment) -> dict[str, Any]:
    """Return the pod as a manifest; Airflow adds its labels, a name's end and a side-car."""
    pods = deployment.pods
    needs = deployment.pod_of(step)
    mounts = _mounts(deployment, shared_memory=needs.gpus > 1)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"perscen-{step.name}-{{{{ ds }}}}",
            "namespace": pods.namespace,
            "labels": {
                "app.kubernetes.io/name": "perscen",
                "app.kubernetes.io/component": "step",
                "perscen/step": step.name,
                "perscen/logical-date": "{{ ds }}",
            },
        },
        "spec": {
            "restartPolicy": "Never",  # what is tried again, and how often, Airflow decides
            "terminationGracePeriodSeconds": pods.termination_grace_s,
            "serviceAccountName": pods.service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "nodeSelector": needs.node_selector,
            "tolerations": [taint.model_dump(exclude_none=True) for taint in needs.tolerations],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": pods.user,
                "runAsGroup": pods.user,
                "fsGroup": pods.user,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": CONTAINER,
                    "image": needs.image,
                    "imagePullPolicy": pods.image_pull_policy,
                    # After the image's entry point, which passes SIGTERM on to the step: as process
                    # 1 the step would be deaf to it until it has a handler.
                    "args": under_torchrun(argv, processes=max(1, needs.gpus)),
                    "env": _environment(needs),
                    "envFrom": [{"secretRef": {"name": name}} for name in pods.secrets],
                    "resources": _resources(needs, pods.gpu.resource),
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": n, **mount} for n, (mount, _) in mounts.items()],
                }
            ],
            "volumes": [{"name": name, **source} for name, (_, source) in mounts.items()],
        },
    }


def _resources(needs: PodNeeds, accelerator: str) -> dict[str, Any]:
    asked = needs.resources
    accelerators = {accelerator: str(needs.gpus)} if needs.gpus else {}
    return {
        "requests": {"cpu": asked.cpu, "memory": asked.memory, **accelerators},
        "limits": {"memory": asked.memory, **accelerators},
    }


def _environment(needs: PodNeeds) -> list[dict[str, str]]:
    told = {"PERSCEN_RESULT": _RESULT, "PERSCEN_RUN_ID": "{{ run_id }}"}
    return [{"name": n, "value": v} for n, v in sorted((told | needs.environment).items())]


def _mounts(
    deployment: Deployment, *, shared_memory: bool
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return what is mounted, by name: where, and from what."""
    pods = deployment.pods
    mounts: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "tmp": ({"mountPath": "/tmp"}, {"emptyDir": {}})  # noqa: S108
    }
    if shared_memory:
        # The processes of one training exchange tensors there; a container has 64 MiB otherwise.
        mounts["shared-memory"] = ({"mountPath": "/dev/shm"}, {"emptyDir": {"medium": "Memory"}})  # noqa: S108
    if pods.volume_claim:
        claim = {"persistentVolumeClaim": {"claimName": pods.volume_claim}}
        mounts["perscen"] = ({"mountPath": pods.volume_mount}, claim)
    if pods.config_map:
        source = {"configMap": {"name": pods.config_map}}
        mounts["settings"] = ({"mountPath": SETTINGS, "readOnly": True}, source)
    return mounts
