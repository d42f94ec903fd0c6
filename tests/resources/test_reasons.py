"""Reasons and condition types: plain text on the outside, and each attempt's end with its meaning for retries."""

from __future__ import annotations

import json
from enum import StrEnum

import pytest

from cumulus.resources import reasons
from cumulus.resources.meta import Condition
from cumulus.resources.reasons import AttemptReason, RetryRule, retry_of

ENUMS = [
    found for found in vars(reasons).values()
    if isinstance(found, type) and issubclass(found, StrEnum) and found is not StrEnum
]  # fmt: skip


@pytest.mark.parametrize("words", ENUMS, ids=lambda words: words.__name__)
def test_each_word_is_one_word_in_camel_case(words: type[StrEnum]) -> None:
    assert all(word.value.isidentifier() and word.value[0].isupper() and word == word.value for word in words)


def test_a_member_is_text_in_json_messages_and_models() -> None:
    found = Condition(type=reasons.JobCondition.RUNNING, status="True", reason=AttemptReason.OOM_KILLED)
    assert json.dumps(AttemptReason.LOST) == '"Lost"'
    assert f"{AttemptReason.LOST}, {AttemptReason.LOST!s}" == "Lost, Lost"
    assert found.to_json()["reason"] == "OOMKilled"
    assert AttemptReason("Lost") is AttemptReason.LOST  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("meaning", "expected"),
    [
        (RetryRule.DONE, "Completed"),
        (RetryRule.FAULT, "Error OOMKilled StartError NotSaved"),
        (RetryRule.LOSS, "Lost NodeLost"),
        (RetryRule.LATE, "ExpiredBeforeStart"),
        (RetryRule.DISRUPTION, "Stopped GrantFailed LeaseReleased NodeUnreachable"),
        (RetryRule.SAVED, "Saved"),
        (RetryRule.EXPIRED, "LeaseExpired"),
        (RetryRule.HELD, "Suspended"),
        (RetryRule.FINAL, "Deadline Idle Replaced StartRefused StatusRefused"),
    ],
)
def test_what_an_end_means_for_the_job(meaning: RetryRule, expected: str) -> None:
    assert {reason for reason in AttemptReason if reason.retry is meaning} == set(expected.split())


@pytest.mark.parametrize(("reason", "meaning"), [("Lost", RetryRule.LOSS), ("OfANewerBackend", RetryRule.FAULT)])
def test_a_reason_that_is_not_known_counts_against_the_limit(reason: str, meaning: RetryRule) -> None:
    assert retry_of(reason) is meaning


@pytest.mark.parametrize("meaning", list(RetryRule))
def test_disruptions_are_those_that_keep_their_place(meaning: RetryRule) -> None:
    assert meaning.disruption == (meaning in (RetryRule.DISRUPTION, RetryRule.LOSS, RetryRule.LATE))
