"""Clients of the versions that were recorded are understood.

Their bytes are replayed, and the answers are read as they read them, by the messages of their version. More than they
know may come; what they know must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cumulus.rpc import orchestrator_pb2 as pb
from tests.server.grpc import wire
from tests.server.grpc.conftest import Served

RECORDED = sorted(Path(__file__).parent.glob("wire-*"))
_ANOTHER = frozenset({"uid", "resourceVersion", "managedFields"})
"""Fields of objects that differ from run to run."""
_LEFT_OUT = {"placement": "Pack"}
"""Defaults that were written into objects once, and are no more, since a queue may say otherwise. No client of ours
ever read them."""


class Version:
    """The messages of a recorded version."""

    def __init__(self, directory: Path) -> None:
        self.file = descriptor_pb2.FileDescriptorProto.FromString((directory / "descriptor.bin").read_bytes())
        pool = descriptor_pool.DescriptorPool()
        pool.Add(self.file)
        self.service = pool.FindServiceByName("cumulus.v1.Orchestrator")
        self.error = message_factory.GetMessageClass(pool.FindMessageTypeByName("cumulus.v1.Error"))

    def answer(self, method: str, data: bytes) -> Any:
        kind = self.service.FindMethodByName(method).output_type
        return _readable(message_factory.GetMessageClass(kind).FromString(data))

    def why(self, data: bytes) -> Any:
        """The class of the error, and the fields at fault. Its words may change."""
        error = self.error.FromString(data)
        return error.reason, [problem.field for problem in error.problems]


def _readable(message: Any) -> Any:
    """Its fields by name, objects and outcomes as what their JSON holds."""
    found = {}
    for field, value in message.ListFields():
        many = value if field.is_repeated else [value]
        if field.type == field.TYPE_MESSAGE:
            read = [_readable(each) for each in many]
        elif field.name in ("object", "outcome"):
            read = [json.loads(each) for each in many]
        else:
            read = list(many)
        found[field.name] = read
    return found


def _covers(now: Any, then: Any) -> bool:
    """Whether all that was there is there."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(
            name in _ANOTHER or (name not in now and _LEFT_OUT.get(name) == value)
            or (name in now and _covers(now[name], value))
            for name, value in then.items()
        )  # fmt: skip
    if isinstance(then, list):
        return len(now) == len(then) and all(map(_covers, now, then))
    return bool(now == then)


@pytest.mark.parametrize("directory", RECORDED, ids=lambda directory: directory.name)
def test_clients_of_a_version_are_understood(served: Served, directory: Path) -> None:
    version, recorded = Version(directory), wire.read(directory)
    for then, now in zip(recorded, wire.replayed(served, recorded), strict=True):
        assert now.code == then.code, then.method
        assert version.why(now.error) == version.why(then.error)
        answers = [[version.answer(then.method, data) for data in each.responses] for each in (then, now)]
        assert _covers(answers[1], answers[0]), (then.method, *answers)


@pytest.mark.parametrize("directory", RECORDED, ids=lambda directory: directory.name)
def test_no_field_is_renumbered_or_used_again(directory: Path) -> None:
    then = Version(directory).file
    now = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    messages = {message.name: {field.number: field for field in message.field} for message in now.message_type}
    for message in then.message_type:
        for field in message.field:
            kept = messages[message.name][field.number]
            assert (kept.name, kept.type, kept.label, kept.type_name) == (
                field.name, field.type, field.label, field.type_name,
            ), f"{message.name}.{field.name}"  # fmt: skip


def test_a_version_is_recorded() -> None:
    assert [directory.name for directory in RECORDED] == ["wire-1"]
