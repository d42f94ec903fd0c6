"""CONTRIBUTING.md, "Add a kind", step by step: a kind and its controller are added to a copy of the package, and work.

Nothing is edited but what the steps name, and the verbs of the command line know the kind all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

KIND = '''
"""Greeting: a text for somebody."""

from typing import ClassVar, Literal

from pydantic import Field

from cumulus.resources.fields import Model, Text
from cumulus.resources.meta import Resource


class GreetingSpec(Model):
    text: Text = Field(description="What to say.")


class GreetingStatus(Model):
    words: int | None = Field(None, description="How many words the text has.")


class Greeting(Resource):
    """A text for somebody."""

    KIND: ClassVar[str] = "Greeting"
    MUTABLE: ClassVar[frozenset[str]] = frozenset({"text"})

    kind: Literal["Greeting"] = Field("Greeting", description="Always Greeting.")
    spec: GreetingSpec = Field(description="What to say.")
    status: GreetingStatus = Field(default_factory=GreetingStatus, description="What the controller counted.")
'''

ENTRY = """
from cumulus.resources.kind import Column, Kind

KIND = Kind(
    "Greeting", "greetings", ("greeting",), True, "cumulus.resources.greeting",
    (Column("TEXT", "spec.text"), Column("WORDS", "status.words")),
)
"""

BAD = """\
apiVersion: cumulus.dev/v1alpha1
kind: Greeting
metadata: {name: hello}
spec: {test: Good day to you}
"""
EXPECTED = "bad.yaml:4:8: spec.test: unknown field; did you mean text?"

CONTROLLER = '''
"""Counts the words of greetings."""

from cumulus.controllers.context import ControllerContext
from cumulus.machinery.cache import Reader
from cumulus.machinery.controller import Controller, WatchedKind, exists, itself
from cumulus.machinery.reconcile import Done, Request, Result
from cumulus.machinery.writes import write_status
from cumulus.resources.greeting import Greeting, GreetingSpec, GreetingStatus
from cumulus.store.client import StoreClient


def plan(spec: GreetingSpec) -> GreetingStatus:
    return GreetingStatus(words=len(spec.text.split()))


class GreetingReconciler:
    def __init__(self, reader: Reader, client: StoreClient) -> None:
        self._reader = reader
        self._client = client

    def reconcile(self, request: Request) -> Result:
        greeting = self._reader.get(Greeting, *request)
        if greeting is not None and greeting.status != (status := plan(greeting.spec)):
            write_status(self._client, greeting.replace(status=status))
        return Done()


CONTROLLERS = (
    Controller[ControllerContext, GreetingReconciler](
        name="greeting",
        kind=Greeting.KIND,
        build=lambda context: GreetingReconciler(context.cache, context.client),
        watches=(WatchedKind(Greeting.KIND, itself, when=exists),),
    ),
)
'''

USE = """
import contextlib
import io
import sys
from pathlib import Path

from cumulus.cli.main import main
from cumulus.manifest import InvalidManifest, load_text
from cumulus.resources.greeting import Greeting
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.registry import find_kind
from tests.controllers.driver import Daemon, World, settle
from tests.controllers.objects import a_job

bad, expected = sys.argv[1:]
try:
    load_text(bad.encode(), name="bad.yaml")
except InvalidManifest as error:
    assert str(error) == expected, str(error)
else:
    raise AssertionError("the bad manifest is taken")
load_text(bad.replace("test:", "text:").encode(), name="good.yaml")
assert find_kind("greetings").model() is Greeting

world = World()
daemon = Daemon(world)
world.apply(a_job())
job = world.job("train")
meta = ObjectMeta(name="hello", namespace="default", owner_references=(job.owner_reference(),))
world.apply(Greeting(metadata=meta, spec={"text": "Good day to you"}))
settle(world, daemon, seconds=1)
[greeting] = world.client.list(Greeting)
assert greeting.status.words == 4, greeting
world.client.delete(job)
settle(world, daemon, seconds=60)
assert not world.client.list(Greeting), "it is collected with its owner"

Path("good.yaml").write_text(bad.replace("test:", "text:"))


def cumulus(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(arguments) == 0, arguments
    return out.getvalue()


assert cumulus("apply", "-f", "good.yaml") == "greeting.cumulus.dev/hello created\\n"
table = cumulus("get", "greetings").splitlines()
assert table[0].split() == ["NAME", "TEXT", "WORDS"], table
assert table[1].split() == ["hello", "Good", "day", "to", "you", "-"], table
described = cumulus("describe", "greeting", "hello")
assert "Name:          hello\\n" in described, described
assert "Text:          Good day to you\\n" in described, described
assert "Events: none\\n" in described, described
assert "What to say." in cumulus("explain", "greeting.spec.text")
waited = cumulus("wait", "greeting/hello", "--for=jsonpath={.spec.text}=Good day to you")
assert waited == "greeting.cumulus.dev/hello condition met\\n", waited
assert cumulus("delete", "greeting", "hello") == "greeting.cumulus.dev/hello deleted\\n"
assert cumulus("wait", "greeting/hello", "--for=delete")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, of links as far as the steps change nothing."""
    source, target = ROOT / "cumulus", tmp_path / "cumulus"
    for directory in (target, target / "resources", target / "resources" / "kinds", target / "controllers"):
        directory.mkdir()
        for entry in (source / directory.relative_to(target)).iterdir():
            if entry.name not in ("__pycache__", "registry.py") and entry not in (
                source / "resources", source / "resources" / "kinds", source / "controllers",
            ):  # fmt: skip
                (directory / entry.name).symlink_to(entry)
    return tmp_path


def test_a_kind_is_added_by_the_steps_alone(copy: Path) -> None:
    package = copy / "cumulus"
    # 1. The models.
    (package / "resources" / "greeting.py").write_text(KIND)
    # 2. What is said of it, and the registry.
    (package / "resources" / "kinds" / "greeting.py").write_text(ENTRY)
    registry = (ROOT / "cumulus" / "resources" / "registry.py").read_text()
    opening = "KINDS: tuple[Kind, ...] = (\n"
    assert registry.count(opening) == 1
    listed = registry.replace("kinds import (\n    event,", "kinds import (\n    event,\n    greeting,")
    (package / "resources" / "registry.py").write_text(listed.replace(opening, opening + "greeting.KIND, "))
    # 4. The controller.
    (package / "controllers" / "greeting").mkdir()
    (package / "controllers" / "greeting" / "__init__.py").touch()
    (package / "controllers" / "greeting" / "declaration.py").write_text(CONTROLLER)
    # 3. A bad manifest with its message; and all of it at work.
    done = subprocess.run(
        [sys.executable, "-P", "-c", USE, BAD, EXPECTED],
        env={**os.environ, "PYTHONPATH": f"{copy}:{ROOT}", "CUMULUS_HOME": str(copy / "home")},
        cwd=copy, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
