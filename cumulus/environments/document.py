"""What a call's environment is to hold: a Python and a list of requirements, as a JSON document.

    {"format": 1, "python": "3.11", "requirements": "six==1.17.0 --hash=sha256:…", "hashed": true}

`hashed` promises that every requirement is one version with its hashes. Only then may users share what is built of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cumulus.errors import InvalidEnvironment

FORMAT = 1
MAX_BYTES = 4 << 20

_PYTHON = re.compile(r"3\.\d{1,2}")
# A version and its hashes, and nothing that names a place: no address, path, option or file to read.
_HASHED = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[A-Za-z0-9., _-]*\])?\s*==\s*[A-Za-z0-9.!+_-]+\s*"
    r"(?:;(?:(?!--)[^#\\@])*)?(?:\s--hash=sha256:[0-9a-f]{64})+"
)


@dataclass(frozen=True)
class EnvironmentDocument:
    """An environment: `python` is major.minor, `requirements` the text of a requirements file."""

    python: str
    requirements: str
    hashed: bool = False

    def __post_init__(self) -> None:
        if not _PYTHON.fullmatch(self.python):
            raise InvalidEnvironment(
                f"python: {self.python[:20]!r} is no version of Python", hint='write major.minor, as "3.11"'
            )
        if "\0" in self.requirements:
            raise InvalidEnvironment("requirements: there is a NUL character in it")
        if self.hashed and (line := not_hashed(self.requirements)) is not None:
            raise InvalidEnvironment(
                f"requirements: {line[:80]!r} is not one version with its hashes, but the document says hashed",
                hint="`uv pip compile --generate-hashes` writes such a list; or say hashed: false",
            )

    @staticmethod
    def parse(content: bytes | str) -> EnvironmentDocument:
        """The document in this JSON. Raises `InvalidEnvironment`."""
        if len(content) > MAX_BYTES:
            raise InvalidEnvironment(f"the environment document is larger than {MAX_BYTES >> 20} MiB")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            raise InvalidEnvironment("the environment document is not JSON") from None
        return EnvironmentDocument.of(found)

    @staticmethod
    def of(found: Any) -> EnvironmentDocument:
        """The document in what JSON was read to. Raises `InvalidEnvironment`."""
        if not isinstance(found, Mapping):
            raise InvalidEnvironment("the environment document is not an object")
        if found.get("format") != FORMAT:
            raise InvalidEnvironment(
                f"format: this node knows {FORMAT}, not {str(found.get('format'))[:20]!r}",
                hint="use the same version of Cumulus on client and nodes",
            )
        python, requirements, hashed = found.get("python"), found.get("requirements", ""), found.get("hashed", False)
        for name, value in (("python", python), ("requirements", requirements)):
            if not isinstance(value, str):
                raise InvalidEnvironment(f"{name}: it must be a string")
        if not isinstance(hashed, bool):
            raise InvalidEnvironment("hashed: it must be true or false")
        return EnvironmentDocument(str(python), str(requirements), hashed)

    def fields(self) -> dict[str, Any]:
        """What `of` reads."""
        return {
            "format": FORMAT, "python": self.python, "requirements": self.requirements, "hashed": self.hashed,
        }  # fmt: skip

    def to_json(self) -> bytes:
        """The same document gives the same bytes, so that it is one blob."""
        return json.dumps(self.fields(), sort_keys=True, separators=(",", ":")).encode()

    def to_install(self) -> str:
        """The requirements file for what installs. Of one that is `hashed` it is what was checked, line by line, and
        not the text, which programs may read differently: users share what comes of it."""
        return "".join(f"{line}\n" for line in logical_lines(self.requirements)) if self.hashed else self.requirements

    def key(self, platform: str) -> str:
        """What a cache names an environment of these packages, built for one Python on one platform."""
        lines = "\n".join(logical_lines(self.requirements))
        return hashlib.sha256(f"{FORMAT}\n{self.hashed}\n{platform}\n{lines}".encode()).hexdigest()[:32]


def logical_lines(requirements: str) -> list[str]:
    """The requirements, one each, without comments and line continuations. A comment ends with its line, also where a
    backslash ends it: what installs reads the next line."""
    lines, begun = [], ""
    for given in requirements.splitlines():
        line = re.sub(r"(^|\s)#.*", "", given)
        if line == given and line.endswith("\\"):
            begun += f"{line[:-1]} "
        else:
            lines.append(begun + line)
            begun = ""
    return [" ".join(line.split()) for line in (*lines, begun) if line.strip()]


def not_hashed(requirements: str) -> str | None:
    """The first requirement that is not one version with its hashes; None where all are."""
    return next((line for line in logical_lines(requirements) if not _HASHED.fullmatch(line)), None)
