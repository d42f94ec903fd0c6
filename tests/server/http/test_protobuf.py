"""The decoder of Protobuf bodies: what kubectl sends is read, and nothing else than an error of its own comes of the
rest."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cumulus.server.http.kubernetes.messages import ACCESS_REVIEW, NAMESPACE, RULES_REVIEW, SECRET, SELF_REVIEW
from cumulus.server.http.kubernetes.protobuf import MAGIC, MAX_FIELDS, Body, Field, Message, ProtobufError, read_object

BODIES = (ACCESS_REVIEW, NAMESPACE, RULES_REVIEW, SECRET, SELF_REVIEW)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes | str | bool) -> bytes:
    if isinstance(value, bool):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(body: Body, raw: bytes) -> bytes:
    type = field(1, body.api_version) + field(2, body.kind)
    return MAGIC + field(1, type) + field(2, raw) + field(3, "") + field(4, "")


def test_what_kubectl_asks() -> None:
    attributes = field(1, "default") + field(2, "create") + field(3, "cumulus.dev") + field(5, "gpujobs")
    raw = field(1, b"") + field(2, field(1, attributes)) + field(3, field(1, False))
    assert read_object(ACCESS_REVIEW, envelope(ACCESS_REVIEW, raw)) == {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
        "spec": {
            "resourceAttributes": {
                "namespace": "default", "verb": "create", "group": "cumulus.dev", "resource": "gpujobs",
            }
        },
    }  # fmt: skip


def test_maps_bytes_and_what_is_not_known() -> None:
    entry = field(1, "token") + field(2, b"\xff\x00")
    raw = field(1, field(1, "s") + field(99, "later")) + field(2, entry) + field(2, field(1, "empty")) + field(5, True)
    found = read_object(SECRET, envelope(SECRET, raw))
    assert found["data"] == {"token": "/wA=", "empty": ""}
    assert (found["metadata"], found["immutable"]) == ({"name": "s"}, True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{}", "does not begin"),
        (MAGIC + b"\x0a\x05ab", "cut off"),
        (MAGIC + b"\xff" * 11, "too large"),
        (MAGIC + b"\x80", "cut off"),
        (MAGIC + b"\x00", "no field with the number 0"),
        (MAGIC + b"\x0b", "no type 3"),
        (MAGIC + b"\x10\x01", "raw is of the wrong type"),
        (MAGIC + field(2, b"") + field(2, b""), "there twice"),
        (MAGIC + field(3, "gzip"), "unknown encoding"),
        (envelope(SECRET, b""), "Secret, is not Namespace"),
        (envelope(NAMESPACE, field(1, field(1, b"\xff"))), "not UTF-8"),
    ],
)
def test_what_is_malformed(data: bytes, words: str) -> None:
    with pytest.raises(ProtobufError, match=words):
        read_object(NAMESPACE, data)


def test_of_many_fields_no_more_are_read_than_a_body_may_have() -> None:
    entries = b"".join(field(11, field(1, str(n)) + b"\x18\x00" * 10) for n in range(MAX_FIELDS // 10))
    for raw in (b"\x50\x01" * 1_000_000, field(1, entries)):
        with pytest.raises(ProtobufError, match="more than 4000 fields"):
            read_object(SECRET, envelope(SECRET, raw))


def read(body: Body, data: bytes) -> None:
    """It gives the object, or ProtobufError and nothing else."""
    with contextlib.suppress(ProtobufError):
        assert read_object(body, data)["kind"] == body.kind


@given(some.sampled_from(BODIES), some.binary(max_size=200), some.booleans())
def test_any_bytes_are_read_or_refused(body: Body, data: bytes, whole: bool) -> None:
    read(body, envelope(body, data) if whole else MAGIC + data)


@pytest.mark.slow
def test_a_hundred_thousand_bodies() -> None:
    """Half of them random, half of them a well-formed one with some bytes changed."""
    dice = random.Random(7)

    def message(shape: Message, depth: int = 0) -> bytes:
        out = b""
        for number, each in shape.fields.items():
            for _ in range(dice.choice((0, 1, 1, 2))):
                out += field(number, filled(each, depth))
        return out

    def filled(each: Field, depth: int) -> Any:
        if isinstance(each.type, Message):
            return message(each.type, depth + 1)
        return dice.random() < 0.5 if each.type == "bool" else dice.randbytes(dice.randrange(9))

    for round in range(100_000):
        body = dice.choice(BODIES)
        if round % 2:
            read(body, MAGIC * dice.randrange(2) + dice.randbytes(dice.randrange(120)))
            continue
        data = bytearray(envelope(body, message(body.message)))
        for _ in range(dice.randrange(4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        read(body, bytes(data[: dice.randrange(len(data)) or None]))
