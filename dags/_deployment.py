"""A deployment: where the steps run and where their files lie, read from one YAML file.

Airflow and Kubeflow read the same file, named by ``PERSCEN_DEPLOYMENT``; ``infra/deployment.yaml``
is a single machine's. Parsing a DAG reads it again and again, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.pipeline import Step

SETTINGS: Final = "/etc/perscen"
"""Where a pod finds the ConfigMap's settings."""
HOME: Final = Path(__file__).resolve().parent.parent
_DEFAULT: Final = HOME / "infra" / "deployment.yaml"
Seconds = Annotated[int, Field(gt=0)]


class DeploymentError(ValueError):
    """The deployment file is missing or wrong; says which line to change."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toleration(_Section):
    """A taint that a pod accepts, as Kubernetes writes it."""

    key: str
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Resources(_Section):
    """What a pod asks for; memory is also its limit, CPU is not limited."""

    cpu: str = "2"
    memory: str = "8Gi"


class Gpu(_Section):
    """What the accelerated steps get besides."""

    resource: str = "nvidia.com/gpu"
    count: Annotated[int, Field(ge=0)] = 1
    """GPUs per pod; above one, ``train`` runs under torchrun with one process per GPU."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()


class Pods(_Section):
    """How a step becomes a pod."""

    namespace: str = "perscen"
    image: str = "perscen:cpu"
    gpu_image: str = "perscen:gpu"
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    service_account: str = "perscen-step"
    user: Annotated[int, Field(gt=0)] = 10001
    """User and group that the images run as; what is written on the volume belongs to them."""
    secrets: tuple[str, ...] = ()
    """Secrets whose entries become environment variables of every step."""
    secret_keys: dict[str, tuple[str, ...]] = {}
    """The entries of each secret, for Kubeflow, which takes none whole."""
    volume_claim: str | None = None
    """Claim mounted at ``volume_mount``; None when every place is an object store address."""
    volume_mount: str = "/perscen"
    config_map: str | None = None
    """ConfigMap mounted at ``/etc/perscen``, for ``config: /etc/perscen/params.yaml``; None when
    the settings are the image's or the volume's."""
    resources: dict[str, Resources] = {"default": Resources()}
    """By step; ``default`` for the others."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    gpu: Gpu = Gpu()
    termination_grace_s: Seconds = 300
    """What a step told to stop has for its checkpoint."""
    startup_timeout_s: Seconds = 900
    """How long a pod may take to start, waiting for a node and the image included."""
    api_patience_s: Seconds = 600
    """How long Airflow goes on asking a Kubernetes API that does not answer; the pod runs on."""
    log_interval_s: Seconds = 120
    """How often a deferred task copies what its pod has logged."""
    result_image: str = "alpine:3.22"
    """Image with a shell, for the side-car that holds a step's result until Airflow reads it."""
    deferrable: bool = True
    """Whether Airflow's triggerer waits for pods, or a worker each."""
    cluster: Literal["in_cluster", "kubeconfig"] = "in_cluster"


class PodNeeds(NamedTuple):
    """What a step's pod is given, in the words both schedulers turn into their own."""

    image: str
    gpus: int
    resources: Resources
    node_selector: dict[str, str]
    tolerations: tuple[Toleration, ...]
    environment: dict[str, str]


class Deployment(_Section):
    """One installation of the daily pipeline."""

    runs_in: Literal["local", "kubernetes"] = "local"
    run_root: str = "runs"
    """Artifacts of day D lie under ``<run_root>/D``: a directory, a mounted volume, or an address
    such as ``s3://bucket/perscen``."""
    raw_log: str = "data/raw"
    config: str = "params.yaml"
    start_date: date = date(2022, 4, 29)
    """First logical date of the schedule."""
    catchup: bool = False
    wait_timeout_s: Seconds = 12 * 3600
    """How long a run waits for its day's logs."""
    wait_interval_s: Annotated[int, Field(ge=15)] = 60
    """How often it looks for them, and a day of a backfill for the end of the day before. Airflow
    takes a task that starts again while its worker still ends, for a lost one: hence 15 s."""
    retries: Annotated[int, Field(ge=0)] = 2
    retry_delay_s: Seconds = 60
    environment: dict[str, str] = {}
    """Places every step sees: ``MLFLOW_TRACKING_URI``, ``PERSCEN_DVC_REMOTE``; never a secret."""
    runs_url: str | None = None
    """Address under which ``run_root`` can be browsed: links to reports start with it."""
    mlflow_url: str | None = None
    """Address of MLflow's pages."""
    webhook_conn_id: str | None = None
    """Airflow connection that is told of refused and failed days."""
    serving_root: str = "serving"
    """Where the refreshed release lies for those who serve it."""
    pods: Pods = Pods()

    @property
    def home(self) -> Path:
        """The directory relative places start from: the repository's."""
        return HOME

    def pod_of(self, step: Step) -> PodNeeds:
        """Return what a step's pod needs.

        ``train`` shares its work among all GPUs of its pod, the other accelerated steps use one.
        """
        pods = self.pods
        most = pods.gpu.count if step.name == "train" else 1
        gpus = min(pods.gpu.count, most) if step.accelerated else 0
        values = {"HOME": "/tmp"}  # noqa: S108 (the pod's own; nothing else can be written to)
        if pods.volume_claim:
            # A pod's own files die with it, a checkpoint must not.
            values["PERSCEN_STATE"] = f"{pods.volume_mount}/state"
        return PodNeeds(
            image=pods.gpu_image if gpus else pods.image,
            gpus=gpus,
            resources=pods.resources.get(step.name) or pods.resources.get("default", Resources()),
            node_selector=pods.node_selector | (pods.gpu.node_selector if gpus else {}),
            tolerations=pods.tolerations + (pods.gpu.tolerations if gpus else ()),
            environment=dict(sorted((values | self.environment).items())),
        )

    def absolute(self, place: str) -> str:
        """Return a place for a process that does not start in ``home``."""
        return place if "://" in place else str(self.home / place)


def read_deployment(path: Path | None = None) -> Deployment:
    """Return the deployment that ``PERSCEN_DEPLOYMENT`` names, or this repository's own.

    Raises:
        DeploymentError: The file is missing, no YAML, or has a setting that does not exist.
    """
    path = path or Path(os.environ.get("PERSCEN_DEPLOYMENT", _DEFAULT))
    try:
        settings: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return Deployment.model_validate(settings)
    except OSError as exc:
        raise DeploymentError(
            f"the deployment file {path} cannot be read: {exc.strerror}; "
            f"set PERSCEN_DEPLOYMENT to yours, or start from {_DEFAULT}"
        ) from exc
    except (yaml.YAMLError, ValidationError) as exc:
        raise DeploymentError(f"{path} is not a deployment: {exc}") from exc
