"""The environment document: what is accepted as hashed decides what users share."""

from __future__ import annotations

import pytest

from cumulus.environments.document import MAX_BYTES, EnvironmentDocument, logical_lines, not_hashed
from cumulus.errors import InvalidEnvironment

HASH = "--hash=sha256:" + "0a" * 32


def test_the_same_document_is_the_same_bytes() -> None:
    document = EnvironmentDocument("3.11", f"six==1.17.0 {HASH}\n", hashed=True)
    assert EnvironmentDocument.parse(document.to_json()) == document
    assert EnvironmentDocument.parse(document.to_json()).to_json() == document.to_json()


@pytest.mark.parametrize(
    "requirement",
    [
        f"six==1.17.0 {HASH}",
        f"six==1.17.0 \\\n    {HASH} \\\n    {HASH}",
        f"torch==2.9.0+cpu ; sys_platform == 'linux' and python_version >= '3.10' {HASH}",
        f"uvicorn[standard]==0.35.0 {HASH}  # via -r requirements.in",
    ],
)
def test_a_version_with_hashes_is_hashed(requirement: str) -> None:
    assert not_hashed(f"# a comment\n\n{requirement}\n") is None


@pytest.mark.parametrize(
    "requirement",
    [
        "six", "six==1.17.0", f"six>=1 {HASH}", f"six==1.* {HASH}", f"six @ https://example.com/six.whl {HASH}",
        f"six @ file:///tmp/six.whl {HASH}", f"./six.whl {HASH}", f"/tmp/six.whl {HASH}", f"-e . {HASH}",
        "--index-url https://example.com", "-r /etc/shadow", f"six==1.17.0 --index-url https://example.com {HASH}",
        f"six==1.17.0 ; python_version > '3' --config-settings=x=y {HASH}", f"six==1.17.0 {HASH} --config-settings=x=y",
        "six==1.17.0 --hash=md5:00", f"--find-links /tmp\\\n six==1.17.0 {HASH}", f"six==1.17.0\u2028-e. {HASH}",
        f"# a comment \\\n--no-binary :all:\nsix==1.17.0 {HASH}", f"six==1.17.0 {HASH} # more \\\n-r /etc/shadow",
    ],
)  # fmt: skip
def test_what_may_name_a_place_or_run_a_build_is_not_hashed(requirement: str) -> None:
    assert not_hashed(requirement) is not None
    with pytest.raises(InvalidEnvironment, match="hashed"):
        EnvironmentDocument("3.11", requirement, hashed=True)


def test_what_was_checked_is_what_is_installed() -> None:
    text = f"# a\nsix==1.17.0 \\\n    {HASH}  # b \\\n  # via c\n"
    assert EnvironmentDocument("3.11", text, hashed=True).to_install() == f"six==1.17.0 {HASH}\n"
    assert EnvironmentDocument("3.11", text).to_install() == text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format": 2, "python": "3.11"}', "format: this node knows 1, not '2'"),
        (b'{"format": 1, "python": 3.11}', "python: it must be a string"),
        (b'{"format": 1, "python": "3.11.2"}', "'3.11.2' is no version of Python"),
        (b'{"format": 1, "python": "3.11; rm"}', "is no version of Python"),
        (b'{"format": 1, "python": "3.11", "requirements": ["six"]}', "requirements: it must be a string"),
        (b'{"format": 1, "python": "3.11", "hashed": 1}', "hashed: it must be true or false"),
        (b" " * (MAX_BYTES + 1), "larger than 4 MiB"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_said_in_one_line(content: bytes, says: str) -> None:
    with pytest.raises(InvalidEnvironment) as caught:
        EnvironmentDocument.parse(content)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_key_follows_what_is_installed() -> None:
    key = EnvironmentDocument("3.11", "six\n").key("linux")
    assert EnvironmentDocument("3.11", "# other words\n\nsix   # for x\n").key("linux") == key
    assert (
        len({key, EnvironmentDocument("3.11", "attrs\n").key("linux"), EnvironmentDocument("3.11", "six\n").key("mac")})
        == 3
    )


def test_an_address_may_have_a_fragment() -> None:
    assert logical_lines("x @ https://example.com/x.git#egg=x  # why\n") == ["x @ https://example.com/x.git#egg=x"]
