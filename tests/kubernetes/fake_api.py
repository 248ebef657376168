"""A Kubernetes API for pods alone, on loopback: enough for Airflow's clients, sync and async.

What becomes of a pod is a script, an ``async`` function that is handed the pod; see `lives`. The
cluster runs in a thread of its own, so that a test may wait for it, kill what talks to it, and ask
what has been created and deleted.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.kubernetes.pods import Pod

Life = Callable[[Pod], Awaitable[None]]
_STDOUT, _STATUS = b"\x01", b"\x03"
"""Channels of an exec: the first byte of every message."""
_ONE = "/api/v1/namespaces/{namespace}/pods/{name}"


class Cluster:
    """The pods of a cluster, and the API before them."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.created: list[Pod] = []
        self.deletions: list[tuple[str, int | None]] = []
        """Name and grace of every deletion asked for."""
        self.most_at_work = 0
        """The most containers of one task that ran at one time."""
        self.lives: list[Life] = []
        """What becomes of the pods to come; the last one goes for all after it."""
        self.reads = 0
        """How often anyone has looked at a pod."""
        self.broken: int | None = None
        """The status every request is answered with, while it is set."""
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # What a life may do to the cluster.

    async def restart(self, *, refuse_s: float, broken_s: float) -> None:
        """Refuse connections for a while, then answer 500 and 503: an API server restarts."""
        await self.close()
        await asyncio.sleep(refuse_s)
        self.broken = 500
        await self.open()
        await asyncio.sleep(broken_s / 2)
        self.broken = 503
        await asyncio.sleep(broken_s / 2)
        self.broken = None

    def remove(self, pod: Pod) -> None:
        """Forget a pod, as after a lost node."""
        self.pods.pop(pod.name, None)

    # The API.

    async def open(self) -> None:
        app = web.Application(middlewares=[self._answer])
        app.add_routes(
            [
                web.post("/api/v1/namespaces/{namespace}/pods", self._create),
                web.get("/api/v1/namespaces/{namespace}/pods", self._list),
                web.get(_ONE, self._read),
                web.patch(_ONE, self._patch),
                web.delete(_ONE, self._delete),
                web.get(f"{_ONE}/log", self._log),
                web.get(f"{_ONE}/exec", self._exec),
                web.get("/api/v1/namespaces/{namespace}/events", self._events),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.close()

    @web.middleware
    async def _answer(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.broken is not None:
            return _failure(self.broken, "the API server is starting")
        name = request.match_info.get("name")
        if name is not None and name not in self.pods:
            return _failure(404, f'pods "{name}" not found')
        return await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        manifest = await request.json()
        if manifest["metadata"]["name"] in self.pods:
            return _failure(409, f'pods "{manifest["metadata"]["name"]}" already exists')
        pod = Pod(manifest, cluster=self)
        life = self.lives.pop(0) if len(self.lives) > 1 else self.lives[0]
        self.pods[pod.name] = pod
        self.created.append(pod)
        self.begin(life(pod))
        return web.json_response(pod.manifest, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        chosen = selector(request.query.get("labelSelector", ""))
        items = [p.manifest for p in self.pods.values() if chosen(p.labels)]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "items": items})

    async def _read(self, request: web.Request) -> web.Response:
        self.reads += 1
        return web.json_response(self._pod(request).manifest)

    async def _patch(self, request: web.Request) -> web.Response:
        pod = self._pod(request)
        change = await request.json()
        pod.labels.update(change["metadata"]["labels"])
        if "activeDeadlineSeconds" in change.get("spec", {}):
            pod.overstay()
        return web.json_response(pod.manifest)

    async def _delete(self, request: web.Request) -> web.Response:
        pod = self._pod(request)
        body = await request.json() if request.can_read_body else {}
        asked = request.query.get("gracePeriodSeconds", (body or {}).get("gracePeriodSeconds"))
        grace_s = None if asked is None else int(asked)
        self.deletions.append((pod.name, grace_s))
        self.begin(pod.terminate(grace_s))
        await asyncio.sleep(0)  # a pod that is over is gone at once
        return web.json_response(pod.manifest)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        if pod.state("step") is None or "waiting" in pod.state("step"):
            return _failure(400, "the container has not started")
        if not pod.node_answers:
            return _failure(500, "Get https://10.0.0.7:10250/containerLogs: no route to host")
        response = web.StreamResponse()
        await response.prepare(request)
        sent = 0
        while True:
            over = "terminated" in pod.state("step")
            for stamp, line in pod.log_lines[sent:]:
                await response.write(f"{stamp} {line}\n".encode())
                sent += 1
            if over or request.query.get("follow") != "True" or not pod.node_answers:
                return response
            await asyncio.sleep(0.02)

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        """Read the result from the side-car."""
        pod = self._pod(request)
        socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
        await socket.prepare(request)
        text = pod.result or "__airflow_xcom_result_empty__\n"
        await socket.send_bytes(_STDOUT + text.encode())
        await socket.send_bytes(_STATUS + b'{"metadata": {}, "status": "Success"}')
        await socket.close()
        return socket

    async def _events(self, request: web.Request) -> web.Response:
        return web.json_response({"kind": "EventList", "apiVersion": "v1", "items": []})

    def _pod(self, request: web.Request) -> Pod:
        return self.pods[request.match_info["name"]]

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the API."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def selector(text: str) -> Callable[[dict[str, str]], bool]:
    """Return whether labels meet a label selector: ``a=b,c!=d,e in (f,g),h notin (i),j,!k``."""
    terms = [_term(term.strip()) for term in re.split(r",(?![^(]*\))", text) if term.strip()]
    return lambda labels: all(term(labels) for term in terms)


def _term(term: str) -> Callable[[dict[str, str]], bool]:
    if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", term):
        key, how, values = found[1], found[2], {v.strip() for v in found[3].split(",")}
        return lambda labels: (labels.get(key) in values) == (how == "in")
    if found := re.fullmatch(r"([^!=]+)(!=|==?)(.*)", term):
        key, how, value = found[1], found[2], found[3]
        return lambda labels: (labels.get(key) == value) != (how == "!=")
    if term.startswith("!"):
        return lambda labels: term[1:] not in labels
    return lambda labels: term in labels


def _failure(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code)


class Running:
    """A cluster in a thread, as a test sees it."""

    def __init__(self, cluster: Cluster, loop: asyncio.AbstractEventLoop, kubeconfig: Path) -> None:
        self.cluster = cluster
        self.kubeconfig = kubeconfig
        self._loop = loop

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the cluster's thread and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=180)

    def call(self, function: Callable[[], Any]) -> None:
        """Call something in the cluster's thread."""
        self._loop.call_soon_threadsafe(function)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something in the cluster's thread."""
        self.call(lambda: self.cluster.begin(work))

    def wait(self, seen: Callable[[Cluster], Any], *, timeout: float = 120) -> Any:
        """Wait until something is so in the cluster, and return it."""

        async def look() -> Any:
            async with asyncio.timeout(timeout):
                while not (found := seen(self.cluster)):
                    await asyncio.sleep(0.02)
                return found

        return self.do(look())


@contextmanager
def running_cluster(directory: Path) -> Iterator[Running]:
    """Run a cluster, with a kubeconfig for it in ``directory``."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    cluster = Cluster()
    running = Running(cluster, loop, directory / "kubeconfig")
    running.do(cluster.open())
    running.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(cluster.port)))
    try:
        yield running
    finally:
        with suppress(TimeoutError):
            running.do(cluster.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


def _kubeconfig(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
    }
