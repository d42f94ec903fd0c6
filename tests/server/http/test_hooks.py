"""A forge that calls: who may, that it learns nothing, and that many calls are one request."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from cumulus.resources.annotations import SYNC_REQUESTED
from cumulus.resources.key import Key
from cumulus.resources.source import Source
from cumulus.secrets import JobSecrets
from tests.server.http.conftest import Answer, Served

BODY = b'{"ref": "refs/heads/main"}'
KEY = Key("Source", "default", "cluster")


@pytest.fixture
def source(served: Served) -> Served:
    home = served.path.parent / "home"
    JobSecrets(home / "job-secrets").of("default").set("forge", "token", "s3cret")
    for name, webhook in (("cluster", {"webhook": "forge"}), ("closed", {}), ("lost", {"webhook": "nothing"})):
        served.store.create(
            {
                "apiVersion": "cumulus.dev/v1alpha1", "kind": "Source",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"git": {"url": "https://git.example.org/r.git"}, **webhook},
            }
        )  # fmt: skip
    return served


def signed(key: str, body: bytes = BODY) -> str:
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def call(source: Served, name: str = "cluster", body: bytes = BODY, **headers: str) -> Answer:
    return source.ask("POST", f"/hooks/default/{name}", body, **headers)


def asked(source: Served) -> str:
    return str((source.store.get(KEY)["metadata"].get("annotations") or {}).get(SYNC_REQUESTED, ""))


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Hub_Signature_256": f"sha256={signed('s3cret')}", "X_GitHub_Event": "push"},
        {"X_Gitea_Signature": signed("s3cret")},
        {"X_Gitlab_Token": "s3cret"},
    ],
    ids=["github", "gitea", "gitlab"],
)
def test_forges_may(source: Served, headers: dict[str, str]) -> None:
    assert call(source, **headers).code == 202
    assert asked(source)


def test_who_may_not_learns_nothing(source: Served) -> None:
    wrong = [
        call(source, X_Hub_Signature_256=f"sha256={signed('other')}"),
        call(source, X_Hub_Signature_256=signed("s3cret", b"another body")),
        call(source, X_Gitlab_Token="other"),
        call(source, X_Gitlab_Token=""),
        call(source),
        call(source, "closed", X_Gitlab_Token="s3cret"),
        call(source, "closed", X_Gitlab_Token=""),
        call(source, "lost", X_Hub_Signature_256=f"sha256={signed('')}"),
        call(source, "nobody", X_Gitlab_Token="s3cret"),
        source.ask("POST", "/hooks/..%2f/x", BODY, X_Gitlab_Token="s3cret"),
        source.ask("POST", "/hooks/", BODY),
    ]
    assert {(answer.code, answer.body) for answer in wrong} == {(403, wrong[0].body)}
    assert not asked(source)


def test_what_is_too_large_is_not_looked_at(source: Served) -> None:
    body = b"x" * (2**20 + 1)
    assert call(source, body=body, X_Hub_Signature_256=f"sha256={signed('s3cret', body)}").code == 413
    assert source.ask("GET", "/hooks/default/cluster").code == 405
    assert not asked(source)


def test_many_calls_are_one_request_until_it_is_taken(source: Served) -> None:
    revision = source.store.revision()
    for _ in range(50):
        assert call(source, X_Gitlab_Token="s3cret").code == 202
    assert source.store.revision() == revision + 1
    first = asked(source)
    document = source.store.get(KEY)
    assert Source.model_validate(document).status.sync_request == ""
    source.store.update_status({**document, "status": {"syncRequest": first}})
    for _ in range(50):
        assert call(source, X_Gitlab_Token="s3cret").code == 202
    assert asked(source) != first
    assert source.store.revision() == revision + 3
