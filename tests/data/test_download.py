"""The archive is fetched from a real server on loopback: broken off, resumed, checked, unpacked."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from perscen.data.download import Archive, download
from perscen.errors import ArtifactError, ServiceUnavailable
from tests.data.archives import contents

FILES = {"data/log.csv": random.Random(0).randbytes(700_000), "data/users.csv": b"id\n1\n"}


class Server(ThreadingHTTPServer):
    """Serves one file; can break off after some bytes, refuse, or ignore ranges."""

    payload = b""
    stop_after: int | None = None
    status = 200
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


class Handler(BaseHTTPRequestHandler):
    """Answers one GET, with ``Range: bytes=N-`` when the server knows ranges."""

    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        partial = bool(start) and self.server.ranges
        body = self.server.payload[start:] if partial else self.server.payload
        status = self.server.status if self.server.status != 200 else 206 if partial else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.stop_after])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with a whole archive."""
    with Server() as running:
        running.payload = pack({f"Pure/{name}": data for name, data in FILES.items()})
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def pack(files: dict[str, bytes], *, link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return buffer.getvalue()


def published(server: Server, **changes: object) -> Archive:
    fields: dict[str, object] = {
        "url": f"http://127.0.0.1:{server.server_port}/Pure.tar.gz",
        "num_bytes": len(server.payload),
        "md5": hashlib.md5(server.payload).hexdigest(),
        "root": "Pure",
        "members": tuple(FILES),
    }
    return Archive(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_members_are_unpacked_below_the_cache(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    folder = download(
        tmp_path / "cache", archive=published(server), progress=lambda *step: told.append(step)
    )

    assert folder == tmp_path / "cache/Pure"
    assert contents(folder) == FILES
    assert told[-1] == (len(server.payload), len(server.payload))


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    archive = published(server)
    folder = download(tmp_path, archive=archive)
    (folder / "data/users.csv").unlink()

    download(tmp_path, archive=archive)  # unpacks the archive it kept
    download(tmp_path, archive=archive)

    assert contents(folder) == FILES
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(ranges: bool, server: Server, tmp_path: Path) -> None:
    archive = published(server)
    server.stop_after, server.ranges = 300_000, ranges
    with pytest.raises(ServiceUnavailable, match="bytes are here") as caught:
        download(tmp_path, archive=archive)
    assert "goes on" in caught.value.hint
    kept = (tmp_path / "Pure.tar.gz.part").stat().st_size
    assert 0 < kept <= 300_000

    server.stop_after = None
    folder = download(tmp_path, archive=archive)

    assert server.asked == [None, f"bytes={kept}-"]
    assert contents(folder) == FILES
    assert not (tmp_path / "Pure.tar.gz.part").exists()


def test_other_bytes_than_the_published_ones_are_deleted(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected 0000"):
        download(tmp_path, archive=published(server, md5="0000"))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "link"),
    [
        ({"Pure/../../evil": b"x"}, None),
        ({"/tmp/evil": b"x"}, None),
        ({"elsewhere/evil": b"x"}, None),
        ({}, "Pure/data/evil"),
    ],
)
def test_an_archive_that_reaches_outside_its_folder_is_not_unpacked(
    files: dict[str, bytes], link: str | None, server: Server, tmp_path: Path
) -> None:
    server.payload = pack({f"Pure/{name}": b"" for name in FILES} | files, link=link)

    with pytest.raises(ArtifactError, match="evil"):
        download(tmp_path / "cache", archive=published(server))

    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["Pure.tar.gz"]
    assert not (tmp_path / "evil").exists()


def test_an_archive_without_an_expected_member_is_not_unpacked(
    server: Server, tmp_path: Path
) -> None:
    archive = published(server, members=("data/log.csv", "data/other.csv"))

    with pytest.raises(ArtifactError, match=r"data/other.csv missing"):
        download(tmp_path, archive=archive)

    assert not (tmp_path / "Pure").exists()


def test_bytes_that_are_no_archive_are_not_unpacked(server: Server, tmp_path: Path) -> None:
    server.payload = b"<html>come back later</html>"

    with pytest.raises(ArtifactError, match="not of the expected form"):
        download(tmp_path, archive=published(server))


@pytest.mark.parametrize(
    ("status", "error"),
    [(503, ServiceUnavailable), (429, ServiceUnavailable), (404, ArtifactError)],
)
def test_a_refusal_is_worth_a_retry_only_when_the_server_may_recover(
    status: int, error: type[Exception], server: Server, tmp_path: Path
) -> None:
    server.status = status

    with pytest.raises(error, match=str(status)):
        download(tmp_path, archive=published(server))


def test_a_server_that_is_not_there_is_unavailable(server: Server, tmp_path: Path) -> None:
    archive = published(server, url="http://127.0.0.1:9/Pure.tar.gz")

    with pytest.raises(ServiceUnavailable, match="could not be fetched"):
        download(tmp_path, archive=archive)
