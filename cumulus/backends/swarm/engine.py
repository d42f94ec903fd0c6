"""Docker's API as the backend needs it: few calls, each with a deadline, and errors of our own tree.

Managers are tried in turn, from the one that answered last: a manager that lost its engine or the quorum must not
keep the others from being asked.
"""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import requests
from docker.context import ContextAPI

from cumulus.backends.swarm.endpoint import (
    TROUBLES,
    EngineClient,
    connect,
    first_line,
    normal,
    registry_headers,
    silence,
)  # fmt: skip
from cumulus.backends.swarm.settings import SwarmSettings
from cumulus.errors import BackendError, BackendRefused
from cumulus.lib.backoff import Backoff

_Json = dict[str, Any]

SECONDS = 15.0
"""For a call to answer."""
LOOKUP_SECONDS = 5.0
"""For a registry to tell a digest."""
UPDATE_TRIES = 8
"""How often an update that came out of sequence is made anew."""
UPDATE_AGAIN = Backoff(first=0.05, longest=10.0, jitter=0.8)
EVENT_SECONDS = 120.0
"""Silence after which the stream of events is opened anew: a half-open connection is not noticed otherwise."""

CHUNK = 1 << 20
"""Bytes of an image that are held at once."""

_NO_MANAGER = ("swarm does not have a leader", "not a swarm manager", "context deadline exceeded", "no elected primary")

_REGISTRY_REFUSES = (
    "unauthorized",
    "no basic auth",
    "denied",
    "authentication required",
    "manifest unknown",
    "not found",
)


class EngineUnavailable(BackendError):
    """No engine answered."""


class Engine:
    """A Swarm through its managers, or one node's engine. `urls` as DOCKER_HOST has them: unix://, tcp://, ssh://."""

    def __init__(self, urls: Sequence[str], *, tls: str = "", seconds: float = SECONDS) -> None:
        """`tls`: the directory with ca.pem, cert.pem and key.pem for tcp:// addresses, as DOCKER_CERT_PATH."""
        self._urls = tuple(urls)
        self._tls = tls
        self._seconds = seconds
        self._mutex = threading.Lock()
        self._clients: dict[str, EngineClient] = {}
        self._digests: dict[str, tuple[float, str, str]] = {}
        self.calls = 0
        """How many requests were made, for the benchmark."""

    @property
    def urls(self) -> Sequence[str]:
        return self._urls

    @property
    def tls(self) -> str:
        return self._tls

    # Services

    def create_service(self, spec: _Json, auth_header: str = "") -> str:
        """The new service's id. Raises `NameTaken` where its name is taken."""
        headers = {"X-Registry-Auth": auth_header} if auth_header else None
        return str(self._call("POST", "/services/create", body=spec, headers=headers)["ID"])

    def service(self, id_or_name: str) -> _Json | None:
        return self._found("/services/{0}", id_or_name)

    def services(self, labels: Sequence[str]) -> Sequence[_Json]:
        return self._list("/services", {"label": list(labels)})

    def tasks(self, filters: Mapping[str, Sequence[str]]) -> Sequence[_Json]:
        """None where the service in `filters` is gone."""
        try:
            return self._list("/tasks", filters)
        except NoSuch:
            return []

    def update_service(self, id: str, change: Callable[[_Json], _Json | None]) -> bool:
        """Apply `change` to the service's spec until no other update comes between (moby#39891, #30794): it is given
        the spec anew each time and returns the new one, None where nothing is left to do. False: no such service."""
        try:
            self._update("service", id, change)
        except NoSuch:
            return False
        return True

    def remove_service(self, id: str) -> None:
        self._gone("/services/{0}", id)

    # Secrets

    def create_secret(self, name: str, data: str, labels: Mapping[str, str]) -> str:
        """Its id; `data` is base64. Raises `NameTaken`."""
        return str(self._call("POST", "/secrets/create", body={"Name": name, "Data": data, "Labels": labels})["ID"])

    def secrets(self, labels: Sequence[str]) -> Sequence[_Json]:
        return self._list("/secrets", {"label": list(labels)})

    def remove_secret(self, id: str) -> None:
        self._gone("/secrets/{0}", id)

    # Networks

    def create_network(self, name: str, labels: Mapping[str, str]) -> str:
        """The id of a new overlay network that services alone can join. Raises `NameTaken`."""
        body = {"Name": name, "CheckDuplicate": True, "Driver": "overlay", "Labels": labels}
        return str(self._call("POST", "/networks/create", body=body)["Id"])

    def networks(self, labels: Sequence[str]) -> Sequence[_Json]:
        return self._list("/networks", {"label": list(labels), "scope": ["swarm"]})

    def remove_network(self, id: str) -> None:
        """Raises `BackendError` where a service uses it."""
        self._gone("/networks/{0}", id)

    # Configs

    def configs(self, labels: Sequence[str]) -> Sequence[_Json]:
        return self._list("/configs", {"label": list(labels)})

    def remove_config(self, id: str) -> None:
        """Raises `BackendError` where a service uses it."""
        self._gone("/configs/{0}", id)

    def config(self, name: str) -> _Json | None:
        return self._found("/configs/{0}", name)

    def create_config(self, name: str, text: str, labels: Mapping[str, str]) -> str:
        """Its id. Raises `NameTaken`."""
        data = base64.b64encode(text.encode()).decode()
        return str(self._call("POST", "/configs/create", body={"Name": name, "Data": data, "Labels": labels})["ID"])

    def relabel_config(self, id: str, version: int, labels: Mapping[str, str]) -> bool:
        """Replace its labels. False where it was changed or removed since that version."""
        config = self._found("/configs/{0}", id)
        if config is None:
            return False
        try:
            body = {**config["Spec"], "Labels": labels}
            self._call("POST", "/configs/{0}/update", id, body=body, params={"version": version})
        except NoSuch:
            return False
        except BackendError as error:
            if "out of sequence" not in str(error):
                raise
            return False
        return True

    # Nodes and the cluster

    def nodes(self) -> Sequence[_Json]:
        return self._list("/nodes", {})

    def update_node(self, id: str, change: Callable[[_Json], _Json | None]) -> None:
        """As `update_service`. Raises `NoSuch` where there is no such node."""
        self._update("node", id, change)

    def remove_node(self, id: str) -> None:
        """Also one that is up: it is told nothing."""
        self._gone("/nodes/{0}?force=1", id)

    def info(self) -> _Json:
        return dict(self._call("GET", "/info"))

    def swarm(self) -> _Json:
        """The cluster; raises `BackendError` where this engine is no manager of one."""
        return dict(self._call("GET", "/swarm"))

    def swarm_init(self, spec: _Json) -> None:
        self._call("POST", "/swarm/init", body=spec)

    def swarm_update(self, spec: _Json, version: int) -> None:
        self._call("POST", "/swarm/update", body=spec, params={"version": version})

    # Containers of one node

    def container(self, id: str) -> _Json | None:
        return self._found("/containers/{0}/json", id)

    def containers(self, labels: Sequence[str]) -> Sequence[_Json]:
        return self._list("/containers/json", {"label": list(labels)}, all=1)

    def kill(self, id: str) -> None:
        """SIGKILL. A container that is gone or has ended is no error."""
        try:
            self._call("POST", "/containers/{0}/kill", id, params={"signal": "SIGKILL"})
        except NoSuch:
            return
        except BackendError as error:
            if "is not running" not in str(error):
                raise

    # Logs and events

    def task_log(self, id: str, since: float = 0.0) -> bytes:
        """The multiplexed log of a task, with time stamps, from `since` (seconds of the epoch) on."""
        return self._log("/tasks/{0}/logs", id, since)

    def container_log(self, id: str, since: float = 0.0) -> bytes:
        """The same, of a container."""
        return self._log("/containers/{0}/logs", id, since)

    def events(self, since: str, kinds: Sequence[str]) -> Iterator[_Json]:
        """Events as they come, from `since` on; ends when the engine is silent for long."""
        parameters = {"since": since, "filters": json.dumps({"type": list(kinds)})}
        response = self._request(
            "GET", "/events", params=parameters, stream=True, timeout=(self._seconds, EVENT_SECONDS)
        )
        try:
            for line in response.iter_lines():
                if line:
                    yield json.loads(line)
        except requests.exceptions.RequestException:
            return
        finally:
            response.close()

    # Images

    def image(self, name: str) -> _Json | None:
        return self._found("/images/{0}/json", name)

    def save_image(self, name: str) -> Iterator[bytes]:
        """The image with that name as an archive."""
        timeout = (self._seconds, EVENT_SECONDS)
        response = self._request("GET", "/images/{0}/get", name, stream=True, timeout=timeout)
        try:
            yield from response.iter_content(CHUNK)
        except requests.exceptions.RequestException as error:
            raise EngineUnavailable(f"the Docker engine stopped sending {name}: {silence(error)}") from None
        finally:
            response.close()

    def digest(self, image: str) -> str:
        """`image@sha256:…` where its registry tells, else the image as it is. Remembered for a minute."""
        return self._look_up(image)[0]

    def refusal(self, image: str) -> str:
        """What the image's registry says where it refuses to tell its digest; "" where it tells or does not answer."""
        message = self._look_up(image)[1]
        return message if any(word in message.lower() for word in _REGISTRY_REFUSES) else ""

    def _look_up(self, image: str) -> tuple[str, str]:
        """The image, pinned where that can be, and why it cannot."""
        known = self._digests.get(image)
        now = time.monotonic()
        if known is not None and known[0] > now:
            return known[1], known[2]
        pinned, problem = image, ""
        if "@" not in image:
            headers = registry_headers(image)
            try:
                said = self._call("GET", "/distribution/{0}/json", image, headers=headers, timeout=LOOKUP_SECONDS)
                pinned = f"{image}@{said['Descriptor']['digest']}"
            except (BackendError, KeyError) as error:
                problem = str(error)
        self._digests[image] = now + 60.0, pinned, problem
        return pinned, problem

    def close(self) -> None:
        with self._mutex:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _update(self, kind: str, id: str, change: Callable[[_Json], _Json | None]) -> None:
        for attempt in range(UPDATE_TRIES):
            found = self._call("GET", f"/{kind}s/{{0}}", id)
            spec = change(json.loads(json.dumps(found["Spec"])))
            if spec is None:
                return
            try:
                version = {"version": found["Version"]["Index"]}
                self._call("POST", f"/{kind}s/{{0}}/update", found["ID"], body=spec, params=version)
                return
            except BackendError as error:
                if "out of sequence" not in str(error):
                    raise
            time.sleep(UPDATE_AGAIN.seconds(attempt, random.random()))
        raise BackendError(f"{kind} {id} was changed by others {UPDATE_TRIES} times while it was to be updated")

    def _log(self, path: str, id: str, since: float) -> bytes:
        parameters = {"stdout": 1, "stderr": 1, "timestamps": 1, "since": f"{since:.9f}" if since else "0"}
        return bytes(self._request("GET", path, id, params=parameters).content)

    def _list(self, path: str, filters: Mapping[str, Sequence[str]], **more: Any) -> Sequence[_Json]:
        found: list[_Json] = self._call("GET", path, params={"filters": json.dumps(filters), **more})
        return found or []

    def _found(self, path: str, *words: str) -> _Json | None:
        try:
            return dict(self._call("GET", path, *words))
        except NoSuch:
            return None

    def _gone(self, path: str, *words: str) -> None:
        try:
            self._request("DELETE", path, *words)
        except NoSuch:
            return

    def _call(self, method: str, path: str, *words: str, body: _Json | None = None, **more: Any) -> Any:
        response = self._request(method, path, *words, json=body, **more)
        return response.json() if response.content else {}

    def _request(self, method: str, path: str, *words: str, **more: Any) -> requests.Response:
        """The answer of the first manager that can give one. Raises as this module says."""
        problem: BackendError = EngineUnavailable("no Docker engine is named", hint="set SWARM_MANAGER")
        for url in self._urls:
            try:
                response = self._send(url, method, path, *words, **more)
            except TROUBLES as error:
                problem = EngineUnavailable(f"the Docker engine {url} {silence(error)}")
                self._drop(url)
                continue
            if response.ok:
                self._prefer(url)
                return response
            message = _message(response)
            if response.status_code == 503 or any(text in message for text in _NO_MANAGER):
                problem = EngineUnavailable(f"{url}: {message}")
                continue
            raise _error(response.status_code, message)
        raise problem

    def _send(self, url: str, method: str, path: str, *words: str, **more: Any) -> requests.Response:
        client = self._client(url)
        self.calls += 1
        more.setdefault("timeout", self._seconds)
        return client.call(method, path, *words, **more)

    def _client(self, url: str) -> EngineClient:
        with self._mutex:
            if url not in self._clients:
                self._clients[url] = connect(url, self._tls, self._seconds)
            return self._clients[url]

    def _drop(self, url: str) -> None:
        with self._mutex:
            client = self._clients.pop(url, None)
        if client is not None and len(self._urls) > 1:
            client.close()

    def _prefer(self, url: str) -> None:
        if self._urls[0] != url:
            self._urls = (url, *(other for other in self._urls if other != url))


class NoSuch(BackendError):
    """What was asked for is not there."""


class NameTaken(BackendError):
    """A service, secret, config or network of that name is there."""


def each(engine: Engine) -> Sequence[Engine]:
    """Its managers, each alone."""
    return [Engine([url], tls=engine.tls) for url in engine.urls]


def from_settings(settings: SwarmSettings) -> Engine | None:
    """The Swarm that they name, else the current Docker context where it is not the default one. None where there is
    neither."""
    managers = settings.managers
    if managers:
        return Engine([normal(word) for word in managers], tls=settings.tls)
    context = ContextAPI.get_current_context()
    if context is not None and context.name != "default" and context.Host:
        return Engine([context.Host], tls=settings.tls)
    return None


def _message(response: requests.Response) -> str:
    try:
        text = str(response.json().get("message", ""))
    except ValueError:
        text = response.text
    return first_line(text or f"status {response.status_code}")


def _error(status: int, message: str) -> Exception:
    if status == 404:
        return NoSuch(message)
    if status == 409 and ("name conflicts" in message or "already exists" in message):
        return NameTaken(message)
    if status == 400:
        return BackendRefused(f"Docker refuses: {message}")
    return BackendError(f"Docker: {message}")
