"""How to reach an engine: its address, its certificates, its login, and the login to an image's registry.

docker's `APIClient` is the connection: it speaks over Unix sockets, TCP, TLS and SSH, and agrees on the version of the
API. Requests go to the paths of the Engine API through its public `request`, since its own methods lack some calls
(logs of tasks, updates of configs) and deadlines of their own for others.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

import docker
import requests
from docker import auth
from docker.errors import DockerException
from docker.tls import TLSConfig
from paramiko import SSHException

from cumulus.errors import BackendRefused

PORT = 2375
"""Docker's, where an address names none."""

TROUBLES = (
    requests.exceptions.RequestException,
    DockerException,
    SSHException,
    EOFError,
    OSError,
)
"""What says that an engine cannot be reached; over ssh:// docker lets the errors of paramiko through."""


def normal(address: str) -> str:
    """An address as the SDK takes it: a bare host is tcp, with Docker's port where none is given."""
    if "://" in address:
        return address
    if address.startswith("/"):
        return f"unix://{address}"
    return f"tcp://{address}" if ":" in address else f"tcp://{address}:{PORT}"


def connect(url: str, certificates: str, seconds: float) -> EngineClient:
    """A client of the engine. Raises `BackendRefused` where the address or the certificates cannot be used, and
    `TROUBLES`."""
    try:
        return EngineClient(
            base_url=url, version="auto", timeout=int(seconds), tls=_tls(url, certificates) or False,
            num_pools=64, max_pool_size=64,
        )  # fmt: skip
    except DockerException as error:
        if "Error while fetching server API version" in str(error):
            raise requests.exceptions.ConnectionError(first_line(error)) from error
        raise BackendRefused(f"the Docker address {url} cannot be used: {first_line(error)}") from None


def registry_auth(image: str) -> str:
    """The X-Registry-Auth header for the image's registry, from Docker's configuration, "" where it has none.

    Taken anew for each attempt: what a service was created with is never refreshed by Swarm (moby#36126)."""
    return registry_headers(image).get("X-Registry-Auth", "")


def registry_headers(image: str) -> dict[str, str]:
    try:
        registry, _ = auth.resolve_repository_name(image.split("@")[0])
        found = auth.load_config().resolve_authconfig(registry)
    except (DockerException, OSError, ValueError):
        return {}
    if not found:
        return {}
    return {"X-Registry-Auth": auth.encode_header(found).decode()}


def silence(error: BaseException) -> str:
    """How an engine did not answer, for people: what the HTTP library wraps around the cause is left out."""
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "took too long to answer"
    if isinstance(error, requests.exceptions.ConnectTimeout | TimeoutError):
        return "cannot be reached: it does not answer in time"
    inner, seen = _inner(error), first_line(error)
    if inner is not None and inner.strerror and not isinstance(error, requests.exceptions.SSLError):
        return f"cannot be reached: {inner.strerror}"
    return f"does not answer: {seen}"


def _inner(error: object, depth: int = 8) -> OSError | None:
    """The system's own error inside those of the libraries: their cause, context, arguments, or reason."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, requests.exceptions.RequestException):
        return error
    if depth and isinstance(error, BaseException):
        around = (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args)
        return next((found for part in around if (found := _inner(part, depth - 1)) is not None), None)
    return None


def first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


class EngineClient(docker.APIClient):
    """A connection to one engine."""

    def call(self, method: str, path: str, *words: str, **more: Any) -> requests.Response:
        """The answer of the Engine API at `path`, whose places `{0}` are filled with `words`; `more` as `requests` has
        it. Raises `TROUBLES`."""
        place = path.format(*(quote(word, safe="/:") for word in words))
        return self.request(method, f"{self.base_url}/v{self.api_version}{place}", **more)

    def merge_environment_settings(self, *request: Any) -> Any:
        """The certificates of DOCKER_CERT_PATH, where requests would take those that REQUESTS_CA_BUNDLE names."""
        return {**super().merge_environment_settings(*request), "verify": self.verify}


def _tls(url: str, directory: str) -> TLSConfig | None:
    if not directory or not url.startswith("tcp://"):
        return None
    pair = (os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem"))
    return TLSConfig(client_cert=pair, ca_cert=os.path.join(directory, "ca.pem"), verify=True)
