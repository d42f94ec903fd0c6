"""Each cell of the matrix that a client can ask about, for each role and over each transport.

`tests/server/http/test_reviews.py` asks the same of Kubernetes' paths.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cumulus.answers.nodes import WorkerAddress
from cumulus.client.base import Client
from cumulus.clock import FakeClock
from cumulus.errors import CumulusError, Forbidden
from cumulus.resources.key import Key, key_of
from cumulus.resources.query import Query
from cumulus.resources.registry import KINDS
from cumulus.resources.roles import Role
from cumulus.service.access.matrix import find
from cumulus.service.identity import Identity
from cumulus.store.memory import MemoryStore
from tests.client.conftest import TRANSPORTS
from tests.documents import NOW
from tests.server.http.test_reviews import documents
from tests.service.conftest import FakeInfrastructure, host_key
from tests.service.test_access import binding

ANN = Identity("ann", 1001)
CHANGE: dict[str, Any] = {"metadata": {"labels": {"a": "b"}}}
Ask = Callable[[Client, Path], Any]


def cells() -> dict[tuple[str, str], Ask]:
    """Resource and verb: what a client asks for it."""
    found: dict[tuple[str, str], Ask] = {
        ("gpujobs/log", "get"): lambda c, _: list(c.logs(Key("GPUJob", "team", "x"))),
        ("gpujobs/lease", "update"): lambda c, _: c.extend(Key("GPUJob", "team", "x"), 60.0),
        ("gpujobs/checkpoints", "list"): lambda c, _: c.checkpoints(Key("GPUJob", "team", "x")),
        ("gpujobs/checkpoints", "get"): lambda c, _: list(c.fetch_checkpoint(Key("GPUJob", "team", "x"))),
        ("gpujobs/checkpoints", "delete"): lambda c, _: c.prune_checkpoints(Key("GPUJob", "team", "x"), keep=1),
        ("secrets", "list"): lambda c, _: c.secrets("team"),
        ("secrets", "create"): lambda c, _: c.create_secret("team", "new", {"k": "v"}),
        ("secrets", "update"): lambda c, _: c.create_secret("team", "new", {"k": "v"}, overwrite=True),
        ("secrets", "delete"): lambda c, _: c.delete_secret("team", "new"),
        ("systemsecrets", "list"): lambda c, _: c.secrets(""),
        ("systemsecrets", "create"): lambda c, _: c.create_secret("", "new", {"k": "v"}),
        ("systemsecrets", "delete"): lambda c, _: c.delete_secret("", "new"),
        ("workers", "get"): lambda c, _: c.ask_worker("x"),
        ("workers", "create"): lambda c, _: c.add_worker("new", WorkerAddress("root@h2"), host_key("h2")),
        ("workers", "update"): lambda c, _: list(c.setup_worker("x", dry_run=True)),
        ("swarms", "get"): lambda c, _: c.swarm_status(),
        ("swarms", "create"): lambda c, _: c.init_swarm(),
        ("swarms", "update"): lambda c, _: c.adopt_swarm(None),
        ("swarms/invitation", "get"): lambda c, _: c.swarm_invitation(),
        ("swarms/images", "create"): lambda c, _: list(c.push_image("i", ["x"], every=1.0)),
        ("backups", "create"): lambda c, place: c.backup(place / "backup"),
        ("tokens", "list"): lambda c, _: c.tokens(everybody=True),
        ("tokens", "create"): lambda c, _: c.create_token("new", user="root"),
        ("tokens", "delete"): lambda c, _: c.revoke_token("new", user="root"),
        ("certificates", "list"): lambda c, _: c.revoked_certificates(),
        ("certificates", "delete"): lambda c, _: c.revoke_certificate("4a"),
    }  # fmt: skip
    made = documents()
    for kind in KINDS:
        document = made[kind.plural]
        key, namespace = key_of(document), document["metadata"].get("namespace")
        fresh = {**document, "metadata": {**document["metadata"], "name": "new"}}
        of: dict[str, Ask] = {
            "get": lambda c, _, key=key: c.get(key),
            "list": lambda c, _, kind=kind, where=namespace: c.list(Query(kind.name, where)),
            "watch": lambda c, _, kind=kind, where=namespace: c.watch(
                since=0, kinds=frozenset({kind.name}), namespace=where
            ).close(),
            "create": lambda c, _, fresh=fresh: c.create(fresh, dry_run=True),
            "update": lambda c, _, document=document: c.update(document, dry_run=True),
            "patch": lambda c, _, key=key: c.patch(key, CHANGE, dry_run=True),
            "delete": lambda c, _, key=key: c.delete(key, dry_run=True),
        }  # type: ignore[misc]
        found |= {(kind.plural, verb): ask for verb, ask in of.items()}
    # The last, since the job is another one then.
    return found | {("gpujobs/rerun", "create"): lambda c, _: c.rerun(Key("GPUJob", "team", "x"))}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("role", [None, *Role], ids=str)
def test_each_cell(transport: str, role: Role | None, tmp_path: Path) -> None:
    home, clock, outside = tmp_path / "home", FakeClock(NOW), FakeInfrastructure()
    home.mkdir(mode=0o700)
    store = MemoryStore(clock)
    for document in documents().values():
        document["metadata"]["annotations"] = {"cumulus.dev/submitter": "ann"}
        store.create(document)
    for where in ("", "team") if role is not None else ():
        store.create(binding(role or "", "User", "ann", where, "mine"))
    wrong = []
    with TRANSPORTS[transport](store, home, clock, outside, ANN) as client:
        for (name, verb), ask in cells().items():
            resource = find(name)
            assert resource is not None
            least = resource.verbs[verb]
            refused = False
            with suppress(CumulusError):
                try:
                    ask(client, tmp_path)
                except Forbidden as error:
                    refused = "cannot" in str(error)
            allowed = least is None or (role is not None and role.covers(least))
            if allowed == refused:
                wrong.append((name, verb, "refused" if refused else "allowed"))
    assert not wrong


def test_no_cell_is_left_out() -> None:
    """But what has a path of Kubernetes alone, and is asked for there."""
    from cumulus.service.access.matrix import RESOURCES
    from tests.server.http.test_reviews import with_paths

    there = {(name, verb) for (group, name), resource in with_paths().items() for verb in resource.verbs}
    cells_of_all = {(resource.name, verb) for resource in RESOURCES for verb in resource.verbs}
    left = {cell for cell in cells_of_all - there - set(cells()) if not cell[0].endswith("/status")}
    # The daemon's metrics are asked for in tests/server/http/test_metrics.py. No call changes secrets of the daemon's
    # own in other ways than by writing or deleting them.
    assert left == {
        ("metrics", "get"), *(("systemsecrets", verb) for verb in ("update", "patch", "deletecollection")),
        ("tokens", "get"),
        # Over gRPC, in tests/server/grpc/test_access.py.
        ("gpujobs/call", "get"), ("blobs", "get"), ("blobs", "create"),
    }  # fmt: skip
