from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cumulus import log, manifest
from cumulus.cli import log_output, printers
from cumulus.lib import printable, safe_output
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.cli.test_table import on_terminal
from tests.documents import active, event, failed, job, node, running

FORGED = "u\x1b[31m\x9b1m\u202e\u2028\x7f\nFAKE      0       root   8Gi"
SHOWN = r"u\x1b[31m\x9b1m\u202e\u2028\x7f FAKE      0       root   8Gi"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_shows_what_it_does_not_obey() -> None:
    assert printable.one_line("plain") == "plain"
    assert printable.one_line(FORGED) == SHOWN
    assert printable.one_line("a\r\nb\rc\td\0\b\udc80") == "a b\\rc d\\0\\b\\udc80"
    # Words and emoji are written with joiners and marks.
    for word in ("Zürich", "日本", "می‌خواهم", "👩‍🚀", "e\u0301"):
        assert printable.one_line(word) == word


def test_blocks_keep_their_lines() -> None:
    assert printable.block("a\n\tb\x1b[2J\r\nc\r") == "a\n\tb\\x1b[2J\nc\\r"


def test_no_line_of_a_log_entry_looks_like_another() -> None:
    assert printable.log_entry("a\n2030-01-01 b\x85c\x1b\n") == "a\n    2030-01-01 b\n    c\\x1b"
    assert printable.log_entry("") == ""


def test_width_is_counted_in_columns() -> None:
    assert [printable.cells(text) for text in ("abc", "日本", "e\u0301", "a\u200db", "⚠\ufe0f")] == [3, 4, 1, 2, 1]
    assert printable.clip("日本語", 5) == "日本…"
    assert printable.clip("x" * 10**6, 5) == "xxxx…"
    assert printable.wrap("one two three", 7) == ["one two", "three"]
    assert printable.wrap("日本語日本語 a", 5) == ["日本", "語日", "本語", "a"]
    assert printable.wrap("", 5) == [""]


@given(st.text(), st.integers(1, 20))
def test_wrapping_loses_nothing(text: str, limit: int) -> None:
    lines = printable.wrap(text, limit)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(printable.cells(line) <= max(limit, 2) for line in lines)


@given(st.text())
@example(FORGED)
@example("\U000e0041\ud83d")
def test_json_and_yaml_hold_no_harmful_character_and_the_same_values(text: str) -> None:
    value = {"a": text, text: [text]}
    written = printers.to_json(value)
    assert printable.block(written) == written
    assert json.loads(written) == value
    if any("\ud800" <= char <= "\udfff" for char in text):
        return  # No YAML reader takes it.
    written = manifest.dump(value)
    assert printable.block(written) == written
    assert yaml.safe_load(written) == value


def test_print_writes_one_line_and_what_is_asked_for_writes_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    with safe_output.guarded():
        print("a", FORGED)
        print("to", "stderr\n", file=sys.stderr)
        safe_output.block(sys.stdout, "b\nc\x1b\n")
        safe_output.line(sys.stdout, ("d\n", safe_output.RED), "e")
    said = capsys.readouterr()
    assert said.out == f"a {SHOWN}\nb\nc\\x1b\nd e\n"
    assert said.err == "to stderr\n\n"


def test_a_paragraph_goes_on_below_and_breaks_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/a/path/that/somebody/may/copy"
    text = f"  fix: see {path}; then start it again"
    out = Terminal()
    monkeypatch.setenv("COLUMNS", "30")
    safe_output.paragraph(out, text)
    assert out.getvalue() == f"  fix: see\n    {path};\n    then start it again\n"
    piped = io.StringIO()
    safe_output.paragraph(piped, text + "\x1b[2J")
    assert piped.getvalue() == f"{text}\\x1b[2J\n"


def test_colours_are_the_programs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    safe_output.line(out, ("bad\x1b[0m", safe_output.RED), " \x1b[31mx", ("", safe_output.RED))
    assert out.getvalue() == "\x1b[31mbad\\x1b[0m\x1b[0m \\x1b[31mx\n"


def test_a_terminal_that_knows_few_characters_gets_the_others_as_codes() -> None:
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    safe_output.line(raw, "grün …")
    assert raw.buffer.getvalue() == b"gr\\xfcn \\u2026\n"  # type: ignore[attr-defined]


def test_an_exception_that_nobody_caught_is_told_without_harm() -> None:
    code = "from cumulus.lib import safe_output\nwith safe_output.guarded():\n    raise Exception('a\\x1b[2J')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert done.stderr.splitlines()[-1] == "Exception: a\\x1b[2J"


@pytest.fixture
def forged(store: SqliteStore) -> None:
    """Control characters wherever a writer gets past the checks, or is trusted with any text."""
    hog = active("hog", user=FORGED)
    hog["metadata"]["annotations"] = {"a": FORGED}
    hog["status"]["deviceName"] = FORGED
    store.create(hog)
    store.create(job("waits", args=[FORGED], env=[{"name": "A", "value": FORGED}]))
    broken = failed("fails", command=[FORGED], image=FORGED)
    broken["status"]["attempts"][0]["message"] = FORGED
    broken["status"]["conditions"][0]["message"] = FORGED
    store.create(broken)
    host = node("gpu-1", free=0)
    host["status"]["devices"][0]["name"] = FORGED
    store.create(host)
    train = store.create(running("train"))
    store.create(event("e", train, "Started", FORGED))


@pytest.mark.usefixtures("forged")
@pytest.mark.parametrize(
    "line",
    [
        "get jobs,parts,nodes,events -o wide", "get all -A --show-labels", "describe job fails", "describe job waits",
        "describe part hog", "describe node gpu-1", "describe event e", "why waits", "why fails", "why hog", "events",
        "get all -o yaml", "get all -o json", "get jobs -o custom-columns=A:.spec.command,B:.spec.env",
        "get nodes -o custom-columns=\x1b[31m:.metadata.name", "get x\x1b[31m", "get jobs no\x9bpe",
        "logs no\u202epe", "explain x\x1b", "wait job/train --for=\x1b[31m", "get jobs -o \x1b", "\x1b[2J",
        "apply -f no\x1bpe", "delete job no\x1bpe", "label job train \x1b=\x9b", "get jobs -l \x1b=1",
    ],
)  # fmt: skip
def test_no_verb_lets_anything_through(run: Run, line: str) -> None:
    done = run(*line.split(" "))
    for text in (done.out, done.err):
        assert printable.block(text) == text
    assert not any(each.startswith("FAKE") for each in done.out.splitlines())
    assert done.out or done.err


@pytest.mark.usefixtures("forged")
def test_jsonpath_gives_a_program_the_value_and_a_terminal_none_of_its_harm(run: Run) -> None:
    assert run("get", "job", "waits", "-o", "jsonpath={.spec.args[0]}{'\\n'}").out == FORGED + "\n"
    shown = on_terminal(80, "get", "job", "waits", "-o", "jsonpath={.spec.args[0]}{'\\n'}")
    assert shown.startswith(printable.block(FORGED) + "\n")


@pytest.mark.usefixtures("home")
def test_help_keeps_its_lines(run: Run) -> None:
    for words in ("", "--help", "get --help", "node --help", "node add --help", "cluster image push --help"):
        done = run(*words.split())
        assert done.code == 0
        assert len(done.out.splitlines()) > 10
        assert done.out.startswith("Usage: cumulus")


class TestLogLines:
    @pytest.fixture(autouse=True)
    def _put_back(self) -> Iterator[None]:
        yield
        structlog.reset_defaults()

    def said(self, **values: Any) -> str:
        out = Terminal()
        log.configure(stream=out)
        structlog.get_logger().warning("refused", **values)
        return out.getvalue()

    def test_values_are_one_harmless_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        text = self.said(name=FORGED, many=[FORGED], number=3)
        assert text.count("\n") == 1
        assert printable.harmful(text.strip("\n")) is None
        assert "\\x1b[31m" in text
        assert "FAKE" in text
        assert "number=3" in text

    def test_times_have_no_microseconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        assert self.said()[19:21] == "Z "

    def test_a_verb_is_not_mixed_with_log_lines(
        self, run: Run, store: SqliteStore, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store.create(job("train", image="x"))
        assert run("logs", "train").code == 1
        structlog.get_logger("cumulus.backends").error("cannot look at the Swarm's tasks")
        assert capsys.readouterr() == ("", "")

    def test_colours_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        assert "\x1b[" in self.said()

    def test_a_traceback_cannot_forge_a_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        try:
            raise ValueError("a\n2030-01-01T00:00:00Z [info] all is well\x1b[2J")
        except ValueError:
            text = self.said(exc_info=True)
        first, second, *more = text.splitlines()
        assert "refused" in first
        assert second == "Traceback (most recent call last):"
        assert all(line.startswith("    ") for line in more)
        assert printable.block(text) == text


class Tty:
    """A terminal that takes bytes."""

    def __init__(self, terminal: bool) -> None:
        self.buffer = io.BytesIO()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


HARMFUL_LOG = (
    b"\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x1b[6n\x1b[1A\x1b[2K\x1b[2J\x1bc\xc2\x9b6n\xe2\x80\xae\x0e \xff\x9b\x00"
)


def copied(chunks: list[bytes], *, terminal: bool) -> bytes:
    out: Any = Tty(terminal)
    output = log_output.LogOutput(out)
    for chunk in chunks:
        output.write(chunk)
    output.end()
    return bytes(out.buffer.getvalue())


def test_a_job_log_goes_to_a_pipe_as_it_is() -> None:
    assert copied([HARMFUL_LOG, b"\x1b["], terminal=False) == HARMFUL_LOG + b"\x1b["


def test_a_terminal_obeys_progress_and_colour_of_a_job_log_and_no_more() -> None:
    progress = "\x1b[1;32mepoch 1\x1b[0m\t10%\rü日 20%\x1b[K\b\b30%\n".encode()
    assert copied([progress], terminal=True) == progress + b"\x1b[0m"
    shown = copied([HARMFUL_LOG], terminal=True)
    assert b"\x1b[2K" in shown
    rest = shown.replace(b"\x1b[2K", b"").decode()
    assert printable.harmful(rest) is None
    assert rest.startswith(r"\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x1b[6n\x1b[1A\x1b[2J\x1bc\x9b6n\u202e")
    assert rest.endswith(r" \xff\x9b\0")


@given(st.integers(1, 7), st.lists(st.sampled_from([b"\x1b", b"[", b"3", b"m", b"K", b";", b"\xc2", b"\x9b", b"x"])))
def test_where_a_chunk_ends_changes_nothing(size: int, parts: list[bytes]) -> None:
    whole = b"".join(parts) + HARMFUL_LOG
    chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert copied(chunks, terminal=True) == copied([whole], terminal=True)
