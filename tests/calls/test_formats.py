"""The formats of calls: what is written is read again, and what others wrote is taken only where it is right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.calls import documents, envelope
from cumulus.calls.envelope import Envelope
from cumulus.calls.outcome import NOT_PICKLABLE, OF_RUNNER, RAISED, RETURNED, Outcome, sign, verify

PAYLOAD, RESULT = "a" * 64, "b" * 64
WORDS = "outcome: outcome is not one of Returned, Raised, OutOfMemory, NotPicklable, NotLoaded"
KEY = b"k" * envelope.KEY_BYTES


def test_an_envelope_is_read_as_it_was_written() -> None:
    made = Envelope("3.11", PAYLOAD, True, "alice", "call-1", 3)
    assert Envelope.read(made.to_json()) == made
    assert json.loads(made.to_json())["format"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "call.json has format 2; this version knows formats up to 1"),
        ({"format": None}, "call.json: format is not a whole number of at least 0"),
        ({"python": "3.8"}, "call.json: python is not a version like 3.11"),
        ({"python": "3.11; rm"}, "call.json: python is not a version like 3.11"),
        ({"python": 3.11}, "call.json: python is not a text of at most 1024 characters"),
        ({"payload": "../../etc/passwd"}, "call.json: payload is not 64 hexadecimal digits"),
        ({"payload": "A" * 64}, "call.json: payload is not 64 hexadecimal digits"),
        ({"session": 1}, "call.json: session is not true or false"),
        ({"attempt": True}, "call.json: attempt is not a whole number of at least 0"),
        ({"attempt": -1}, "call.json: attempt is not a whole number of at least 0"),
        ({"pickle": ""}, "call.json has the unknown field 'pickle'"),
    ],
)
def test_what_is_wrong_with_an_envelope_is_said(change: dict[str, Any], said: str) -> None:
    document = {**json.loads(Envelope("3.11", PAYLOAD).to_json()), **change}
    with pytest.raises(ValueError, match=r".") as caught:
        Envelope.read(json.dumps(document).encode())
    assert str(caught.value) == said


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"null", b"{" * 100_000, b" " * (documents.LARGEST + 1)])
def test_what_is_no_document_is_refused(content: bytes) -> None:
    for read in (Envelope.read, Outcome.read):
        with pytest.raises(ValueError, match=r"is (no JSON|larger than)"):
            read(content)


NAMES = ["format", "outcome", "result", "text", "used", "python", "payload"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats()


@given(st.recursive(LEAVES, lambda more: st.lists(more) | st.dictionaries(st.sampled_from(NAMES), more)))
def test_any_document_is_read_or_refused(document: Any) -> None:
    said: list[str] = []
    for read in (Envelope.read, Outcome.read):
        try:
            read(json.dumps(document).encode())
        except ValueError as refused:
            said.append(str(refused))
    assert not any("\n" in each for each in said)


def test_an_outcome_is_read_as_it_was_written() -> None:
    made = Outcome(
        RAISED, "pkg.Mine", "a\nb", "Traceback …\n", RESULT, 17, sign(KEY, PAYLOAD, RAISED, RESULT), 2**40, 2**33
    )
    assert Outcome.read(made.to_json()) == made
    assert Outcome.of_status({**made.fields(), "attempt": 2}) == made
    assert Outcome.of_status({}) is None
    assert set(json.loads(Outcome(RETURNED, result=RESULT).to_json())) == {"format", "outcome", "result"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"outcome": "Fine"}, WORDS), ({"outcome": "LeaseExpired"}, WORDS),
        ({"outcome": RETURNED}, "outcome is Returned, and there is no result"),
        ({"outcome": NOT_PICKLABLE, "result": RESULT}, "outcome is NotPicklable, which has no result"),
        ({"outcome": RAISED, "used": -1}, "outcome: used is not a whole number of at least 0"),
        ({"outcome": RAISED, "text": "x" * 5000}, "outcome: text is not a text of at most 4096 characters"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_outcome_is_said(document: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Outcome.read(json.dumps({"format": 1, **document}).encode(), OF_RUNNER)
    assert str(caught.value) == said


def test_what_an_exception_says_moves_no_cursor_and_has_its_bounds() -> None:
    made = Outcome(RAISED, "x\x1b[2J" * 90, "\x1b" * 5000 + "\ud800", "first\n" + "x" * 20_000 + "\nlast")
    read = Outcome.read(made.to_json())
    assert "\x1b" not in read.type + read.text
    assert read.traceback.startswith("first\n")
    assert read.traceback.endswith("\nlast")
    # Escapes take more room than what they stand for, and what was read goes into a status.
    assert Outcome.of_status(read.fields()) is not None


def test_a_signature_binds_a_result_to_its_call() -> None:
    made = Outcome(RETURNED, result=RESULT, signature=sign(KEY, PAYLOAD, RETURNED, RESULT))
    assert verify(KEY, PAYLOAD, made)
    assert not verify(b"x" * 32, PAYLOAD, made)
    assert not verify(KEY, RESULT, made)
    assert not verify(KEY, PAYLOAD, Outcome(RAISED, result=RESULT, signature=made.signature))
    assert not verify(KEY, PAYLOAD, Outcome(RETURNED, result=PAYLOAD, signature=made.signature))
    assert not verify(KEY, PAYLOAD, Outcome(RETURNED, result=RESULT))


def test_a_payload_has_the_clients_key_in_its_head() -> None:
    head = envelope.payload_head(KEY)
    assert len(head) == envelope.HEAD_BYTES
    assert envelope.key_of(head) == KEY
    for wrong in (b"", head[:-1], head + b"x", b"x" + head[1:]):
        with pytest.raises(ValueError, match=r"use a client and a server of one version"):
            envelope.key_of(wrong)
    with pytest.raises(ValueError, match="32 bytes"):
        envelope.payload_head(b"short")
