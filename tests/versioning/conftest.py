"""A real folder and a real S3 server as remotes, and small splits to commit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.store import write_manifest
from perscen.staging import staged
from tests.factories import random_splits
from tests.retrieval.world import DAY, _splits_manifest


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """An S3 server on loopback."""
    from moto.server import ThreadedMotoServer  # seconds, for those who need it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty bucket of this test's own, found and opened by the environment as in a pod."""
    import boto3

    empty = tmp_path / "empty"
    empty.touch()
    for name, value in {
        "AWS_ENDPOINT_URL": s3_address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(empty),
        "AWS_SHARED_CREDENTIALS_FILE": str(empty),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    bucket = tmp_path.name.replace("_", "-").lower()[-40:].strip("-")
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/perscen"


@pytest.fixture(params=["folder", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A remote of each kind."""
    if request.param == "folder":
        return str(tmp_path / "remote")
    address: str = request.getfixturevalue("s3")
    return address


def forget_connections() -> None:
    """Let the next connection read the environment again."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def splits_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("splits") / "splits")


@pytest.fixture
def splits(splits_template: Path, tmp_path: Path) -> Path:
    """Splits as a step leaves them: with a record of the run beside."""
    return shutil.copytree(splits_template, tmp_path / "splits")


def write_splits(path: Path, *, seed: int = 3) -> Path:
    made = random_splits(seed=seed)
    with staged(path) as scratch:
        made.save(scratch)
        write_manifest(scratch, _splits_manifest(made, DAY))
        (scratch / "run.json").write_text('{"run_id": "one"}\n')
    return path
