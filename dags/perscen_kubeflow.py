"""The daily pipeline for Kubeflow Pipelines: ``python -m dags.perscen_kubeflow`` compiles it.

Kubeflow runs a component's *source*, so that of each step is made here from the graph instead of
being typed nine times; what runs in it is in ``dags._kubeflow_step``.
"""

import argparse
import linecache
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from kfp import compiler, dsl, kubernetes

from components.pipeline import PIPELINE, Step
from components.render import under_torchrun
from dags._deployment import (
    HOME,
    SETTINGS,
    Deployment,
    DeploymentError,
    Pods,
    read_deployment,
)
from dags._kubeflow_step import logical_day, run_argv, run_step

OUT: Final = HOME / "infra" / "kubeflow" / "perscen.yaml"
DEPLOYMENT: Final = HOME / "infra" / "kubeflow" / "deployment.yaml"
KINDS: Final = {"clean_log": "Dataset", "splits": "Dataset", "model": "Model", "indexes": "Model"}
"""Kubeflow's types of artifacts; the others are plain ones. A ``Metrics`` or ``HTML`` artifact is
one file to Kubeflow, ours are directories: the report's page is one more output."""

_EVERY_STEP: Final = {
    "logical_date": "str",
    "days_back": "int",
    "config": "str",
    "run_id": "str",
}
_COMPONENT: Final = '''\
def {name}({signature}){returns}:
    """{summary}."""
    day = logical_day(logical_date, days_back)
    argv = [{argv}]
    result = run_step(argv, run_id=run_id, retries={retries}, retry_delay_s={delay}{refused})
    {output}.metadata.update(result)
'''
_SHOW_PAGE: Final = """\
    import shutil

    shutil.copyfile(f"{report.path}/{result['page']}", page.path)
"""
_SAY_RELEASED: Final = '    return (result["released"],)\n'


class Told(NamedTuple):
    """What a run says of itself when it is done."""

    released: bool
    """Whether there is a release; a refusal leaves the champion where it was."""


def component_source(step: Step, deployment: Deployment) -> str:
    """Return the source of a step's component: the step's argv between its inputs and output."""
    kinds = {name: f"Input[{KINDS.get(name, 'Artifact')}]" for name in step.inputs}
    kinds |= {name: "str" for name in step.inputs if name in PIPELINE.external}
    kinds[step.output] = f"Output[{KINDS.get(step.output, 'Artifact')}]"
    # What stands for a value in the argv, and the expression that gives it.
    values = {f"<{n}>": n if kind == "str" else f"{n}.path" for n, kind in kinds.items()}
    values |= {"<config>": "config", "<day>": "day"}
    argv = step.argv(config="<config>", logical_date="<day>", places={n: f"<{n}>" for n in kinds})
    argv = under_torchrun(argv, processes=max(1, deployment.pod_of(step).gpus))
    publishes, reports = step.output == "release", step.output == "report"
    parameters = {**_EVERY_STEP, **kinds, **({"page": "Output[HTML]"} if reports else {})}
    text = _COMPONENT.format(
        name=step.name,
        signature=", ".join(f"{name}: {kind}" for name, kind in parameters.items()),
        returns=' -> NamedTuple("Told", released=bool)' if publishes else "",
        summary=step.summary.capitalize(),
        argv=", ".join(values.get(token, repr(token)) for token in argv),
        retries=deployment.retries,
        delay=deployment.retry_delay_s,
        refused=', refused={"released": False}' if publishes else "",
        output=step.output,
    )
    return text + _SHOW_PAGE * reports + _SAY_RELEASED * publishes


def component(step: Step, deployment: Deployment) -> Callable[..., dsl.PipelineTask]:
    """Return a step as a lightweight component."""
    text = component_source(step, deployment)
    file = f"<component {step.name}>"
    # Kubeflow asks `inspect` for the source, which finds it here.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names: dict[str, Any] = {**vars(dsl), "NamedTuple": NamedTuple}
    exec(compile(text, file, "exec"), names)  # noqa: S102 (our own text)
    return dsl.component(
        names[step.name],
        base_image=deployment.pod_of(step).image,
        install_kfp_package=False,  # the images hold it, pinned: pods need no package index
        additional_funcs=[logical_day, run_step, run_argv],
    )


def pipeline(deployment: Deployment) -> Any:
    """Return the graph as a pipeline whose runs take a day."""

    @dsl.pipeline(
        name="perscen-daily",
        display_name="perscen: daily retraining",
        description="Retrains the two towers for one day of logs and releases them if they are not "
        "worse than the champion's.",
    )
    def perscen_daily(
        logical_date: str,
        days_back: int = 0,
        raw_log: str = deployment.raw_log,
        config: str = deployment.config,
    ) -> Told:
        """Run every step for one day.

        Args:
            logical_date: The day of logs, YYYY-MM-DD, or a recurring run's macro that becomes one.
            days_back: Days before ``logical_date`` that are meant: 1 where a run is scheduled on
                the day after its logs.
            raw_log: Where the raw log lies.
            config: The settings, a params.yaml.

        Returns:
            released: Whether the day ended with a release; a refusal leaves the champion.
        """
        shared = {
            "logical_date": logical_date,
            "days_back": days_back,
            "config": config,
            "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        }
        made: dict[str, Any] = {"raw_log": raw_log}
        for step in PIPELINE.steps:
            inputs = {name: made[name] for name in step.inputs}
            task = component(step, deployment)(**shared, **inputs)
            _place(task, step, deployment)
            made |= task.outputs
        return Told(released=made["released"])

    return perscen_daily


def _place(task: dsl.PipelineTask, step: Step, deployment: Deployment) -> None:
    """Give a task its pod: resources, nodes, user, environment, files."""
    # What is made again and what is not, digests decide: Kubeflow remembers nothing.
    task.set_caching_options(enable_caching=False)
    pods, needs = deployment.pods, deployment.pod_of(step)
    asked = needs.resources
    task.set_cpu_request(asked.cpu)
    task.set_memory_request(asked.memory).set_memory_limit(asked.memory)
    if needs.gpus:
        task.set_accelerator_type(pods.gpu.resource).set_accelerator_limit(needs.gpus)
        # Against a lost node, where nobody is left inside the pod to try again. Kubeflow repeats
        # hopeless failures too, so this is for the steps that have most to lose.
        task.set_retry(deployment.retries, backoff_duration=f"{deployment.retry_delay_s}s")
    if needs.gpus > 1:
        # The processes of one training exchange tensors there; a container has 64 MiB otherwise.
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory")  # noqa: S108
    for key, value in needs.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for taint in needs.tolerations:
        kubernetes.add_toleration(task, **taint.model_dump(exclude_none=True))
    kubernetes.set_image_pull_policy(task, pods.image_pull_policy)
    kubernetes.set_security_context(
        task, run_as_user=pods.user, run_as_group=pods.user, run_as_non_root=True
    )
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", "perscen")
    kubernetes.add_pod_label(task, "perscen/step", step.name)
    _give_files(task, pods)
    for name, value in needs.environment.items():
        task.set_env_variable(name, value)


def _give_files(task: dsl.PipelineTask, pods: Pods) -> None:
    if pods.volume_claim:
        kubernetes.mount_pvc(task, pods.volume_claim, pods.volume_mount)
    if pods.config_map:
        kubernetes.use_config_map_as_volume(task, pods.config_map, SETTINGS)
    for secret in pods.secrets:
        if not (keys := pods.secret_keys.get(secret)):
            raise DeploymentError(
                f"pods.secret_keys does not name the entries of the secret {secret!r}: Kubeflow "
                "takes no secret whole; list those that become environment variables"
            )
        kubernetes.use_secret_as_env(task, secret, {key: key for key in keys})


def main(argv: Sequence[str] | None = None) -> None:
    """Compile the pipeline for a deployment."""
    parser = argparse.ArgumentParser(
        prog="python -m dags.perscen_kubeflow", description=main.__doc__
    )
    parser.add_argument("--deployment", type=Path, default=DEPLOYMENT, metavar="FILE")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    arguments = parser.parse_args(argv)
    try:
        made = pipeline(read_deployment(arguments.deployment))
    except DeploymentError as exc:
        parser.error(str(exc))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(made, str(arguments.out))


if __name__ == "__main__":
    main()
