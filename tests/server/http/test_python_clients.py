"""Kubernetes' Python clients, unmodified, against the API: list, create, apply, patch, watch over a restart, delete.

Each is loaded by its test: every process of a run reads this file, and one of them runs it."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from cumulus.clock import FakeClock
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, job
from tests.server.http.conftest import serving
from tests.service.conftest import ME, FakeInfrastructure

GROUP, VERSION = "cumulus.dev", "v1alpha1"
SECONDS = 20


class KeptStore(MemoryStore):
    """Stays when the server that it is given to ends."""

    def close(self) -> None:
        pass


class Server:
    """A server that can be restarted at its address. `config`: a kubeconfig for it."""

    def __init__(self, directory: Path) -> None:
        self.store = KeptStore(FakeClock(NOW))
        self._directory = directory
        self._port = 0
        self._open = ExitStack()
        self.start()
        self.config = directory / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self._port}"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "default"}}
        self.config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context],
                    "users": [{"name": "u", "user": {"token": "none"}}], "current-context": "x",
                }
            )
        )  # fmt: skip

    def start(self) -> None:
        listening = self._open.enter_context(socket.create_server(("127.0.0.1", self._port)))
        self._port = listening.getsockname()[1]
        self._open.enter_context(
            serving(listening, self.store, self._directory, FakeClock(NOW), FakeInfrastructure(), lambda: ME)
        )

    def stop(self) -> None:
        self._open.close()

    def restart(self) -> None:
        self.stop()
        self.start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def manifest(name: str, **spec: Any) -> dict[str, Any]:
    made = job(name, **spec)
    return {
        "apiVersion": made["apiVersion"],
        "kind": "GPUJob",
        "metadata": {"name": name, "namespace": "default"},
        "spec": made["spec"],
    }


def told(stream: Callable[[], Iterator[Any]]) -> Queue[Any]:
    """What an endless stream gives, read by a thread of its own."""
    queue: Queue[Any] = Queue()
    Thread(target=lambda: [queue.put(item) for item in stream()], daemon=True).start()
    return queue


def resumed(watch: Callable[[str | None], Iterator[Any]]) -> Iterator[Any]:
    """What watches tell, each begun where the last one broke off: type and name."""
    import httpx
    import httpx2
    import kr8s

    since = None
    while True:
        with suppress(httpx.HTTPError, httpx2.HTTPError, OSError, kr8s.ConnectionClosedError):
            for type, found in watch(since):
                since = found.metadata.resourceVersion
                yield type, found.metadata.name
        time.sleep(0.05)


def test_kubernetes(server: Server) -> None:
    import kubernetes

    api = kubernetes.config.new_client_from_config(str(server.config))
    jobs = kubernetes.dynamic.DynamicClient(api).resources.get(api_version=f"{GROUP}/{VERSION}", kind="GPUJob")
    assert jobs.create(manifest("a"), namespace="default").metadata.name == "a"
    with pytest.raises(kubernetes.client.exceptions.ApiException) as conflict:
        kubernetes.client.CustomObjectsApi(api).create_namespaced_custom_object(
            GROUP, VERSION, "default", "gpujobs", manifest("a")
        )
    assert conflict.value.status == 409

    def events() -> Iterator[Any]:
        for event in jobs.watch(namespace="default"):
            yield event["type"], event["object"].metadata.name

    watched = told(events)
    assert watched.get(timeout=SECONDS) == ("ADDED", "a")
    applied = jobs.server_side_apply(
        manifest("b", priority=3), namespace="default", name="b", field_manager="tests", force_conflicts=True
    )
    assert applied.spec.priority == 3
    assert watched.get(timeout=SECONDS) == ("ADDED", "b")
    merge = "application/merge-patch+json"
    jobs.patch({"spec": {"suspend": True}}, name="a", namespace="default", content_type=merge)
    operations = [{"op": "replace", "path": "/spec/priority", "value": 7}]
    jobs.patch(operations, name="a", namespace="default", content_type="application/json-patch+json")
    assert [watched.get(timeout=SECONDS) for _ in range(2)] == [("MODIFIED", "a")] * 2
    assert [item.spec.priority for item in jobs.get(namespace="default").items] == [7, 3]
    jobs.delete(name="b", namespace="default")
    assert watched.get(timeout=SECONDS) == ("DELETED", "b")
    jobs.delete(namespace="default", label_selector="", field_selector="metadata.name=a")
    assert watched.get(timeout=SECONDS) == ("DELETED", "a")


def test_an_informer_of_kubernetes_goes_on_after_a_restart(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    import kubernetes
    from kubernetes.informer import SharedInformer

    # It tries again without a pause, and logs a traceback each time.
    for name in ("kubernetes.informer.informer", "urllib3"):
        caplog.set_level(logging.CRITICAL, logger=name)
    server.store.create(job("a"))
    objects = kubernetes.client.CustomObjectsApi(kubernetes.config.new_client_from_config(str(server.config)))

    def listed(**options: Any) -> Any:
        """As the informer wants it: a watch as it is, and a list as an object."""
        found = objects.list_namespaced_custom_object(GROUP, VERSION, "default", "gpujobs", **options)
        if options.get("watch"):
            return found
        metadata = SimpleNamespace(resource_version=found["metadata"]["resourceVersion"])
        return SimpleNamespace(items=found["items"], metadata=metadata)

    found: Queue[str] = Queue()
    informer = SharedInformer(listed, key_func=lambda job: job["metadata"]["name"])
    informer.add_event_handler("ADDED", lambda job: found.put(job["metadata"]["name"]))
    informer.start()
    assert found.get(timeout=SECONDS) == "a"
    server.restart()
    server.store.create(job("b"))
    assert found.get(timeout=SECONDS) == "b", "nothing twice, and nothing lost"
    # Its thread waits in a read: the end of the server ends that.
    Thread(target=informer.stop, daemon=True).start()


def test_kr8s(server: Server) -> None:
    import kr8s
    from kr8s.objects import new_class

    api = kr8s.api(kubeconfig=str(server.config))
    GPUJob = new_class("GPUJob", f"{GROUP}/{VERSION}", plural="gpujobs")
    made = GPUJob(manifest("a"), api=api)
    made.create()
    assert made.exists()

    watched = told(lambda: resumed(lambda since: api.watch("gpujobs.cumulus.dev", namespace="default", since=since)))
    assert watched.get(timeout=SECONDS) == ("ADDED", "a")
    made.label(team="x")
    made.patch({"spec": {"suspend": True}})
    made.patch([{"op": "replace", "path": "/spec/priority", "value": 7}], type="json")
    assert [watched.get(timeout=SECONDS) for _ in range(3)] == [("MODIFIED", "a")] * 3
    server.restart()
    server.store.create(job("b"))
    assert watched.get(timeout=SECONDS) == ("ADDED", "b"), "nothing twice, and nothing lost"
    (found,) = api.get("gpujobs.cumulus.dev", namespace="default", label_selector="team=x")
    assert (found.name, found.spec.suspend, found.spec.priority) == ("a", True, 7)
    made.delete()
    with pytest.raises(kr8s.NotFoundError):
        made.refresh()


def test_lightkube(server: Server) -> None:
    import lightkube
    from lightkube.config.kubeconfig import KubeConfig
    from lightkube.generic_resource import create_namespaced_resource
    from lightkube.types import PatchType

    GPUJob = create_namespaced_resource(GROUP, VERSION, "GPUJob", "gpujobs")
    client = lightkube.Client(config=KubeConfig.from_file(server.config).get(), field_manager="tests")
    client.create(GPUJob(manifest("a")))
    watched = told(lambda: resumed(lambda since: client.watch(GPUJob, namespace="default", resource_version=since)))
    assert watched.get(timeout=SECONDS) == ("ADDED", "a")
    client.apply(GPUJob(manifest("b", priority=3)))
    assert watched.get(timeout=SECONDS) == ("ADDED", "b")
    client.patch(GPUJob, "a", {"spec": {"suspend": True}}, patch_type=PatchType.MERGE)
    assert watched.get(timeout=SECONDS) == ("MODIFIED", "a")
    server.restart()
    client.patch(GPUJob, "a", [{"op": "replace", "path": "/spec/priority", "value": 7}], patch_type=PatchType.JSON)
    assert watched.get(timeout=SECONDS) == ("MODIFIED", "a"), "nothing twice, and nothing lost"
    assert [item.metadata.name for item in client.list(GPUJob, namespace="default", chunk_size=1)] == ["a", "b"]
    client.delete(GPUJob, "b")
    with pytest.raises(lightkube.ApiError) as missing:
        client.get(GPUJob, "b")
    assert missing.value.status.reason == "NotFound"
