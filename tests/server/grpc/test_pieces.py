"""Pieces of an upload: written as protobuf writes them, and read where they are nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.rpc import pieces
from cumulus.rpc.orchestrator_pb2 import BlobHeader, PutBlobRequest


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 2**20, 2**21])
def test_a_piece_is_written_as_protobuf_writes_it(size: int) -> None:
    data = bytes(size)
    message = pieces.written(memoryview(data))
    assert message == PutBlobRequest(data=data).SerializeToString()
    assert pieces.read(message) == data


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x12",
        b"\x12\x80",
        b"\x12\x05abc",
        b"\x12\x03abcd",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        PutBlobRequest(header=BlobHeader(sha256="0" * 64, size=5)).SerializeToString(),
        PutBlobRequest(data=b"abc").SerializeToString() * 2,
    ],
)
def test_another_message_is_left_to_protobuf(message: bytes) -> None:
    assert pieces.read(message) is None


@given(st.binary(max_size=300))
def test_what_is_read_is_what_protobuf_reads(message: bytes) -> None:
    found = pieces.read(b"\x12" + message)
    assert found is None or PutBlobRequest.FromString(b"\x12" + message) == PutBlobRequest(data=found)
