"""The API over TLS: who gets in, by what, and whom clients trust."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cumulus import paths
from cumulus.clock import SystemClock
from cumulus.daemon_lock import DaemonLock
from cumulus.errors import CumulusError
from cumulus.lib import addresses
from cumulus.lib.fingerprint import fingerprint
from cumulus.resources.key import Key
from cumulus.server.api_server import ApiServer
from cumulus.server.http import revocation
from cumulus.server.http.certificates import Authority
from cumulus.server.settings import ApiSettings
from cumulus.service.addresses import api_address
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import job
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("encrypted-api")

ME = Identity.of_this_process()


@dataclass
class Encrypted:
    home: Path
    store: MemoryStore
    service: Service

    @property
    def port(self) -> int:
        found = api_address.read(self.home)
        assert found is not None
        return addresses.split(found.url.removeprefix("https://"))[1]

    def context(self, certificate: str = "", *, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        found = api_address.read(self.home)
        assert found is not None
        context = ssl.create_default_context(cadata=found.ca)
        if certificate:
            context.load_cert_chain(certificate)
        if version is not None:
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = version
        return context

    def ask(
        self, path: str, token: str | None = None, *, certificate: str = "", host: str = "localhost", **headers: str
    ) -> tuple[int, Any]:
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        connection = http.client.HTTPSConnection(host, self.port, timeout=PATIENCE, context=self.context(certificate))
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if body.startswith(b"{") else body.decode()
        finally:
            connection.close()


def start(home: Path, store: MemoryStore, settings: ApiSettings = ApiSettings()) -> ApiServer:
    made = ApiServer(home, store, settings, retry_seconds=0.02)
    made.start()
    assert made.listens_encrypted.wait(PATIENCE)
    return made


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    home = tmp_path_factory.mktemp("home")
    lock = DaemonLock(home)
    store = MemoryStore()
    server = start(home, store)
    yield Encrypted(home, store, Service(lambda: store, home))
    server.close()
    lock.close()


def test_nobody_is_answered_who_does_not_show_who_they_are(encrypted: Encrypted) -> None:
    code, status = encrypted.ask("/livez")
    assert (code, status["reason"]) == (401, "Unauthorized")
    for wrong in ("", "cumulus_wrong", "x" * 5000, "cumulus_../../../../etc/passwd"):
        assert encrypted.ask("/apis", wrong)[0] == 401
    assert encrypted.ask("/apis", authorization="Basic cm9vdDpyb290")[0] == 401


def test_a_token_opens_it_until_it_is_revoked(encrypted: Encrypted) -> None:
    made = encrypted.service.tokens.create(ME, "mine")
    assert encrypted.ask("/readyz", made.token, host="127.0.0.1")[0] == 500
    assert encrypted.ask("/livez", made.token) == (200, "ok")
    assert encrypted.ask("/apis/cumulus.dev/v1alpha1/gpujobs", made.token)[1]["kind"] == "GPUJobList"
    assert encrypted.ask("/livez", made.token[:-1])[0] == 401
    other = encrypted.service.tokens.create(ME, "theirs", user="nobody-here")
    code, status = encrypted.ask("/apis/cumulus.dev/v1alpha1/gpujobs", other.token)
    assert (code, 'User "nobody-here" cannot list' in status["message"]) == (403, True)
    encrypted.service.tokens.revoke(ME, "mine")
    assert encrypted.ask("/livez", made.token)[0] == 401


def test_a_token_that_is_revoked_ends_what_it_opened(encrypted: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "LOOK_SECONDS", 0.05)
    names = ("ended", "kept")
    tokens = {name: encrypted.service.tokens.create(ME, name).token for name in names}
    connections = {
        name: http.client.HTTPSConnection("localhost", encrypted.port, timeout=PATIENCE, context=encrypted.context())
        for name in names
    }
    try:
        watches = {}
        for name, connection in connections.items():
            headers = {"authorization": f"Bearer {tokens[name]}"}
            connection.request("GET", "/apis/cumulus.dev/v1alpha1/gpujobs?watch=true", headers=headers)
            watches[name] = connection.getresponse()
            assert watches[name].status == 200
        encrypted.service.tokens.revoke(ME, "ended")
        assert watches["ended"].read() == b""
        encrypted.store.create(job("seen"))
        assert json.loads(watches["kept"].readline())["object"]["metadata"]["name"] == "seen"
        encrypted.store.delete(Key("GPUJob", "default", "seen"))
    finally:
        for connection in connections.values():
            connection.close()
        encrypted.service.tokens.revoke(ME, "kept")


def test_too_many_wrong_tokens_are_slowed_down_and_right_ones_are_not(encrypted: Encrypted) -> None:
    right = encrypted.service.tokens.create(ME, "right")
    codes = [encrypted.ask("/livez", "cumulus_guess")[0] for _ in range(30)]
    assert 429 in codes
    assert encrypted.ask("/livez", right.token)[0] == 200


def test_only_tls_from_1_2_on_is_spoken(encrypted: Encrypted) -> None:
    connection = socket.create_connection(("127.0.0.1", encrypted.port), 20)
    # The test itself must ask for what is out of date.
    with pytest.raises(OSError), warnings.catch_warnings(action="ignore"), connection:
        encrypted.context(version=ssl.TLSVersion.TLSv1_1).wrap_socket(connection, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", encrypted.port), 20) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200" not in plain.recv(1000)


def openssl(*words: str, cwd: Path) -> None:
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True)


def client_certificate(home: Path, directory: Path, subject: str, days: str = "1") -> str:
    """As docs/api.md tells to make one."""
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "u.key", "-subj", subject, "-out", "u.csr", cwd=directory
    )
    (directory / "u.ext").write_text("extendedKeyUsage=clientAuth\n")
    api = paths.api_dir(home)
    openssl(
        "x509", "-req", "-in", "u.csr", "-CA", f"{api}/ca.crt", "-CAkey", f"{api}/ca.key", "-CAcreateserial",
        "-CAserial", "ca.srl", "-days", days, "-extfile", "u.ext", "-out", "u.crt", cwd=directory,
    )  # fmt: skip
    (directory / "u.pem").write_text((directory / "u.key").read_text() + (directory / "u.crt").read_text())
    return str(directory / "u.pem")


def test_a_client_certificate_names_user_and_groups_but_no_unix_user(encrypted: Encrypted, tmp_path: Path) -> None:
    certificate = client_certificate(encrypted.home, tmp_path, "/O=labs/CN=ann")
    code, status = encrypted.ask("/apis/cumulus.dev/v1alpha1/gpujobs", certificate=certificate)
    assert (code, 'User "ann" cannot list' in status["message"]) == (403, True)
    root = client_certificate(encrypted.home, tmp_path, "/CN=root")
    assert encrypted.ask("/apis/cumulus.dev/v1alpha1/gpujobs", certificate=root)[0] == 403
    admin = client_certificate(encrypted.home, tmp_path, "/O=cumulus-admin/CN=eve")
    assert encrypted.ask("/apis/cumulus.dev/v1alpha1/gpujobs", certificate=admin)[0] == 200
    # A token comes first, and a bad one is not made good by a certificate.
    assert encrypted.ask("/livez", "cumulus_wrong", certificate=admin)[0] in (401, 429)
    # The server's own certificate is nobody's.
    with pytest.raises(OSError):
        encrypted.ask("/livez", certificate=str(paths.api_dir(encrypted.home) / "server.pem"))


def test_a_certificate_that_was_revoked_opens_nothing_any_more(encrypted: Encrypted, tmp_path: Path) -> None:
    certificate = client_certificate(encrypted.home, tmp_path, "/O=cumulus-admin/CN=mallory")
    serial = subprocess.run(
        ["openssl", "x509", "-noout", "-serial", "-in", certificate], capture_output=True, text=True, check=True
    ).stdout
    connection = http.client.HTTPSConnection(
        "localhost", encrypted.port, timeout=PATIENCE, context=encrypted.context(certificate)
    )

    def asked(path: str = "/livez", body: str | None = None) -> tuple[int, Any]:
        connection.request("GET" if body is None else "POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    assert asked()[0] == 200
    token = json.loads(asked("/cumulus/v1/create_token", "{}")[1])["value"]["token"]
    assert encrypted.ask("/livez", token)[0] == 200
    encrypted.service.certificates.revoke(ME, serial)
    # On a connection that is open too, and for what was asked for with it.
    assert asked()[0] in (401, 429)
    assert encrypted.ask("/livez", token)[0] in (401, 429)
    other = client_certificate(encrypted.home, tmp_path, "/O=cumulus-admin/CN=mallory")
    assert encrypted.ask("/livez", certificate=other)[0] == 200
    connection.close()


def test_what_it_keeps_is_its_own(encrypted: Encrypted) -> None:
    directory = paths.api_dir(encrypted.home)
    assert directory.stat().st_mode & 0o777 == 0o700
    for each in ("ca.key", "ca.crt", "server.pem"):
        assert (directory / each).stat().st_mode & 0o777 == 0o600
    assert paths.api_address(encrypted.home).stat().st_mode & 0o777 == 0o600
    assert encrypted.service.api_address(ME).url.startswith("https://127.0.0.1:")


def test_who_does_not_trust_it_yet_is_shown_the_authority_with_its_fingerprint(encrypted: Encrypted) -> None:
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{encrypted.port}", "-showcerts"], input="", capture_output=True,
        text=True, timeout=PATIENCE, check=False,
    ).stdout  # fmt: skip
    found = api_address.read(encrypted.home)
    assert found is not None
    assert found.ca.strip() in shown
    said = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"], input=found.ca, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    assert fingerprint(found.ca).removeprefix("SHA256:") == said.strip().rpartition("=")[2]


def test_authority_and_port_stay_through_a_restart(tmp_path: Path) -> None:
    store = MemoryStore()
    first = start(tmp_path, store)
    before = api_address.read(tmp_path)
    first.close()
    second = start(tmp_path, store)
    assert api_address.read(tmp_path) == before
    second.close()
    assert before is not None
    # Another program has the port meanwhile: it takes another, as no address was asked for.
    with socket.create_server(("127.0.0.1", addresses.split(before.url.removeprefix("https://"))[1])):
        third = start(tmp_path, store)
        after = api_address.read(tmp_path)
        third.close()
    assert after is not None
    assert (after.ca, after.url != before.url) == (before.ca, True)


def test_an_address_that_is_taken_is_waited_for_and_the_socket_serves_meanwhile(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = ApiServer(tmp_path, MemoryStore(), ApiSettings(listen=f"127.0.0.1:{taken.getsockname()[1]}"))
        server.start()
        assert server.listens.wait(PATIENCE)
        assert not server.listens_encrypted.wait(0.3)
        server.close()


def test_given_files_are_taken(tmp_path: Path, encrypted: Encrypted) -> None:
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "k.pem",
        "-out", "c.pem", "-days", "1", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost", cwd=tmp_path,
    )  # fmt: skip
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    ca = str(paths.api_dir(encrypted.home) / "ca.crt")
    settings = ApiSettings(tlsCert=str(tmp_path / "c.pem"), tlsKey=str(tmp_path / "k.pem"), clientCA=ca)
    store = MemoryStore()
    server = start(home, store, settings)
    there = Encrypted(home, store, Service(lambda: store, home))
    try:
        assert there.ask("/livez", there.service.tokens.create(ME).token)[0] == 200
        admin = client_certificate(encrypted.home, tmp_path, "/O=cumulus-admin/CN=eve")
        assert there.ask("/livez", certificate=admin)[0] == 200
        assert not (paths.api_dir(home) / "ca.key").exists()
    finally:
        server.close()


def test_a_certificate_is_renewed_in_time_and_for_a_new_name(tmp_path: Path) -> None:
    authority, now = Authority(tmp_path / "api"), SystemClock().now()
    assert authority.ensure_server(["localhost"], now)
    ca = authority.certificate.read_bytes()
    assert not authority.ensure_server(["localhost"], now + timedelta(days=200))
    assert authority.ensure_server(["localhost"], now + timedelta(days=300))
    assert authority.ensure_server(["localhost", "10.1.2.3"], now)
    assert authority.certificate.read_bytes() == ca
    authority.server.write_text("damaged")
    assert authority.ensure_server(["localhost", "10.1.2.3"], now)
    os.unlink(tmp_path / "api" / "ca.key")
    with pytest.raises(CumulusError, match=r"ca\.key is missing"):
        authority.ensure_server(["new"], now)
    (tmp_path / "api").chmod(0o755)
    with pytest.raises(CumulusError, match="other users may enter"):
        authority.ensure()


@pytest.mark.parametrize(
    ("text", "found"),
    [("1.2.3.4:6443", ("1.2.3.4", 6443)), ("[::1]:0", ("::1", 0)), ("gpu.example.org:80", ("gpu.example.org", 80))],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert addresses.split(text) == found
    assert addresses.join(*found) == text


@pytest.mark.parametrize("text", ["", "6443", ":6443", "::1:6443", "a b:1", "x:70000", "x:", "user@x:1", "x:-1", "x:²"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        addresses.split(text)


def test_the_machines_own_addresses() -> None:
    assert "127.0.0.1" in addresses.local()
