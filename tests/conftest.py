"""For all tests: how hypothesis searches, what is only run with --slow, and which tests must not run beside each
other."""

from __future__ import annotations

import functools
import gc
import os
import random
import re
import signal
import time
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis.errors import FlakyStrategyDefinition

from cumulus.lib import collector
from tests import opencl, unix_users
from tests.disks import small_disk  # noqa: F401
from tests.s3 import moto, proxy, seaweedfs  # noqa: F401
from tests.unix_users import User

# Machines are shared and slow at times: no example fails for its time. Every run searches new examples, also the test
# command's and CI's: a fixed set stays green for ever. What was found before is kept by no database, so that the seed
# alone says which examples are tried.
settings.register_profile(
    "cumulus",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=False,
    database=None,
    print_blob=True,
)
settings.register_profile("long", settings.get_profile("cumulus"), max_examples=10**7)
settings.load_profile("cumulus")

# Several daemons run at once: each takes a port for gRPC that is free.
os.environ["ORCHESTRATOR_PORT"] = "0"

# What a test starts with a home of its own looks for devices too.
os.environ[opencl.CACHE] = opencl.cache()

PROPERTY_SECONDS = float(os.environ.get("PROPERTY_SECONDS", "30"))
"""How long one property searches at most. With `--hypothesis-profile=long` this alone ends the search of those that
set no number of examples of their own."""

MENDED = "the lab was mended"
"""A property of a test: what had to be put in order before it."""

TESTS = Path(__file__).parent
CHRONOS = TESTS / "chronos"

LONGEST_FIRST = (
    "swarm/test_script.py", "swarm/test_managers.py", "crash/test_loop.py", "browser/", "e2e/", "sim/", "nodes/",
    "crash/", "controllers/test_crashes.py", "test_seeds.py", "backends/process/", "cli/test_command_server.py",
)  # fmt: skip
"""What takes long and may run beside anything: where several processes share the tests, nobody shall begin with one of
these when the others have finished."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run what takes minutes of both cores")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """One seed for all properties of a run. First, since hypothesis reads the option in a hook of its own, and xdist
    hands the options on to its workers."""
    _give_children_the_default_signals()
    # Each process of a run loads all modules and makes thousands of tests, which live as long as it does.
    collector.begin()
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def _give_children_the_default_signals() -> None:
    """nohup and a script's `&` leave signals ignored, and whatever a test starts would inherit that. A handler is set
    back to the default in every program that is started, and one that does nothing leaves this process alone."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


def pytest_collection_finish() -> None:
    """What there is by now stays: nobody looks through it again and again while the tests run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command that runs in this process sets up the log of the process."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def users() -> Iterator[tuple[User, User]]:
    """Two Unix users of this machine."""
    if why := unix_users.missing():
        pytest.skip(why)
    with unix_users.two_users() as made:
        yield made


def pytest_report_header(config: pytest.Config) -> str:
    return f"properties: --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What was left out, loudly. After a failure, also where `-q` leaves the header out: how to see it again."""
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "nodeid")]
    if slow := [report.nodeid for report in terminalreporter.stats.get("skipped", ()) if "slow" in report.keywords]:
        terminalreporter.section("LEFT OUT, SINCE THEY TAKE VERY LONG: scripts/test.sh --slow runs them", sep="!")
        for line in left_out(slow, {report.nodeid for report in reports}):
            terminalreporter.write_line(line)
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", ())
        if "users" in report.keywords and "slow" not in report.keywords
    ]
    if skipped:
        terminalreporter.section("NOT SHOWN: WHETHER USERS ARE KEPT APART. Run these as root, with useradd", sep="!")
        for line in sorted({report.nodeid.partition("::")[0] for report in skipped}):
            terminalreporter.write_line(line)
    mended = {
        f"{report.nodeid}: {words}"
        for report in reports
        for name, words in getattr(report, "user_properties", ())
        if name == MENDED
    }
    if mended:
        terminalreporter.section("AN EARLIER TEST LEFT THE LAB BROKEN: mended before these", sep="!")
        for line in sorted(mended):
            terminalreporter.write_line(line)
    if terminalreporter.stats.get("failed"):
        seed = config.option.hypothesis_seed
        terminalreporter.write_line(
            f"Properties' examples come again with: PROPERTY_SECONDS=600 python -m pytest --hypothesis-seed={seed} TEST"
        )


def left_out(slow: Sequence[str], every: Collection[str]) -> list[str]:
    """The tests, each with those of its parameters that were left out where others were run."""
    parameters = defaultdict(list)
    # xdist writes a test's group behind its name.
    slow, every = ([re.sub(r"@[\w-]+$", "", id) for id in ids] for ids in (slow, every))
    for id in slow:
        name, _, parameter = id.partition("[")
        parameters[name].append(parameter.removesuffix("]"))
    run = {id.partition("[")[0] for id in set(every) - set(slow)}
    return [
        f"{name}: of its parameters {', '.join(parameters[name])}" if name in run else name
        for name in sorted(parameters)
    ]


class _TimeIsUp(BaseException):
    """No failure in hypothesis's eyes, which goes on after any `Exception`."""


# Not inside pytest_runtest_call: hypothesis itself wraps that.
@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """End a property's search when its time is up. One that has failed goes on: the example is being made smaller,
    for which hypothesis has a limit of its own."""
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    if handle is None:
        return (yield)
    test = handle.inner_test
    until = time.monotonic() + PROPERTY_SECONDS
    failed = over = False

    @functools.wraps(test)
    def bounded(*args: Any, **kwargs: Any) -> None:
        nonlocal failed, over
        if not failed and time.monotonic() > until:
            over = True
            raise _TimeIsUp
        try:
            test(*args, **kwargs)
        except Exception:
            failed = True
            raise

    handle.inner_test = bounded
    try:
        return (yield)
    except _TimeIsUp:
        return True
    except FlakyStrategyDefinition:
        # An example that it had begun like another ended before it drew what that one drew.
        if over:
            return True
        raise
    finally:
        handle.inner_test = test


# First, since xdist reads the groups in a hook of its own.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of Chronos name their leases alike, and a monitor ends whatever process names its lease: one at a time.
    Properties have the time to search, and then hypothesis's five minutes to make a failing example smaller."""
    for item in items:
        if item.get_closest_marker("slow") and not config.option.slow:
            item.add_marker(pytest.mark.skip(reason="takes very long: --slow"))
        if hasattr(getattr(item, "obj", None), "hypothesis"):
            item.add_marker(pytest.mark.timeout(PROPERTY_SECONDS + 330))
        if within(item, CHRONOS):
            item.add_marker(pytest.mark.xdist_group("chronos"))
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)


def within(item: pytest.Item, directory: Path) -> bool:
    """Asked by each process of a run for all of its tests: by text, as `Path.parents` takes long."""
    return str(item.path).startswith(f"{directory}/")


def _turn(item: pytest.Item) -> int:
    """The place of its module in `LONGEST_FIRST`."""
    name = os.path.relpath(item.path, TESTS)
    return next((turn for turn, first in enumerate(LONGEST_FIRST) if name.startswith(first)), len(LONGEST_FIRST))
