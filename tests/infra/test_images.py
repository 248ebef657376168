"""Images: linted, made of files that are there, of the versions that the tests run with."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.infra.files import BIN, INFRA, pins, read_yaml

IMAGES = sorted((INFRA / "images").glob("*.Dockerfile"))
each_image = pytest.mark.parametrize("dockerfile", IMAGES, ids=lambda path: path.stem)


def instructions(dockerfile: Path) -> list[str]:
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", " ").splitlines()


def copied(dockerfile: Path) -> Iterator[tuple[list[str], str]]:
    """Give what each COPY takes from the repository, and to where."""
    for line in instructions(dockerfile):
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            yield words[1:-1], words[-1]


@each_image
def test_a_dockerfile_passes_its_linter(dockerfile):
    done = subprocess.run([BIN / "hadolint", dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@each_image
def test_what_is_copied_is_there_and_is_sent_to_the_builder(dockerfile):
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    for sources, _ in copied(dockerfile):
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, p) or source.startswith(f"{p}/") for p in sent)


@each_image
def test_an_image_runs_as_a_user_and_says_what_it_is_made_of_and_how_it_is(dockerfile):
    lines = instructions(dockerfile)
    if "apache/airflow" not in dockerfile.read_text():  # whose image has a user of its own
        assert lines.index("USER 10001") < len(lines) - 1
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert any('image.revision="$PERSCEN_REVISION"' in line for line in lines)


@each_image
def test_every_package_that_is_named_has_a_pin(dockerfile):
    text = dockerfile.read_text()
    grepped = re.findall(r"grep [-E ]*'\^\(?([\w|-]+)\)?=='", text)
    installed = re.findall(r"constraints\.txt \\\n +((?:[a-z0-9-]+ )+)\\", text)
    named = " ".join([*grepped, *installed]).replace("|", " ").split()
    assert named
    assert set(named) <= set(pins())


def test_steps_are_installed_with_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    text = (INFRA / "images" / "step.Dockerfile").read_text()
    built = re.findall(r"EXTRAS=([\w,]+)", text) + re.findall(r"`([\w,]+)`", text)
    built.append(read_yaml("compose.yaml")["services"]["airflow-init"]["build"]["args"]["EXTRAS"])
    assert {"cpu", "gpu", "cpu,airflow", "cpu,kfp"} <= set(built)
    for one in built:
        assert set(one.split(",")) <= set(extras)
        assert len({"cpu", "gpu"} & set(one.split(","))) == 1


def test_servers_have_the_version_of_their_clients():
    airflow, mlflow = pins()["apache-airflow"], pins()["mlflow"]
    assert f"ARG AIRFLOW_VERSION={airflow}" in (INFRA / "images/airflow.Dockerfile").read_text()
    assert read_yaml("airflow/values.yaml")["airflowVersion"] == airflow
    assert read_yaml("airflow/values.yaml")["images"]["airflow"]["tag"] == airflow
    assert read_yaml("mlflow/values.yaml")["image"]["tag"] == mlflow
    assert read_yaml("compose.yaml")["services"]["mlflow"]["image"] == f"perscen-mlflow:{mlflow}"
