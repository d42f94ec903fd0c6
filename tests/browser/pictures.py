"""`python -m tests.browser.pictures [FOLDER]`: pictures of every page, wide and narrow, light and dark, of a pool that
is made up. The documentation shows some: those in docs/pictures, made smaller by `pngquant` where that is installed.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from cumulus.clock import FakeClock
from cumulus.history.recorder import HistoryRecorder
from cumulus.history.series import Sample
from cumulus.paths import history_file
from cumulus.resources.key import Document
from cumulus.resources.query import WatchEvent
from cumulus.resources.submitter import Submitter
from cumulus.server.limiter import RequestLimits
from cumulus.service.addresses import PageAddress, page_address
from cumulus.service.identity import Identity
from cumulus.store.memory import MemoryStore
from tests import documents
from tests.browser.chromium import DESKTOP, PHONE, chromium, watched_context
from tests.browser.test_pages import STEPS
from tests.documents import NOW
from tests.e2e.conftest import Machine, manifest
from tests.e2e.conftest import serving as serving_machine
from tests.history.leases import MINUTE, Held, at, machine
from tests.server.http.conftest import serving
from tests.service.conftest import FakeInfrastructure
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
VIEWS = {"wide": DESKTOP, "narrow": PHONE}
SCHEMES = ("light", "dark")
USERS = ("root", "ann", "bob", "cleo", "dan")
WEIGHTS = (6, 3, 3, 2, 1)
NODES = ("gpu-1", "gpu-2", "gpu-3")
DEVICES = 4
PAGES = {
    "overview": "/ui/", "jobs": "/ui/jobs", "nodes": "/ui/nodes", "node": "/ui/nodes/gpu-1", "users": "/ui/users",
}  # fmt: skip
OF_A_DAEMON = {
    "queue": "/ui/queue", "job": "/ui/jobs/default/train", "confirmation": "/ui/jobs/default/train/delete",
    "sooner": "/ui/jobs/default/waits/sooner",
}  # fmt: skip
"""Pages that the made-up pool has nothing for."""


def leases() -> Iterator[tuple[Held, bool]]:
    """A week of leases on each part of each device, up to one that runs; with whether it does."""
    chance, number = random.Random(4), 0
    for node in NODES:
        for device in range(DEVICES):
            for share in chance.choice(((50, 50), (25, 25, 50), (100,), (50, 25))):
                start = -chance.randrange(7 * 1440) * MINUTE
                while start < 0:
                    end = start + chance.randrange(20, 170) * MINUTE
                    user = chance.choices(USERS, WEIGHTS)[0]
                    job = f"{chance.choice(('train', 'sweep', 'eval', 'embed'))}-{number}"
                    yield Held(number, user, job, "default", "", node, device, start, end, share), end > 0
                    number += 1
                    # Little is done at night.
                    start = end + chance.randrange(2, 30 if 7 < at_hour(end) < 21 else 600) * MINUTE


def fill(store: MemoryStore, home: Path, clock: FakeClock) -> None:
    """The pool's objects as they are now, and its history."""
    nodes = [machine(name, DEVICES) for name in NODES]
    told = [(0, node) for node in nodes]
    uses: dict[str, dict[str, Sample]] = {name: {} for name in NODES}
    used_bytes: Counter[tuple[str, int]] = Counter()
    over_bytes: Counter[tuple[str, int]] = Counter()
    chance = random.Random(2)
    for held, runs in leases():
        *_, started, over = [document for _, document in held.states()]
        started["status"]["expiresAt"] = at(held.end)
        started["spec"]["duration"] = f"{(held.end - held.start) // MINUTE}m"
        if not runs:
            told += [(held.start, started), (held.end, over)]
        else:
            clock.jump(held.start / 1000)
            # The store gives them their uids.
            started["metadata"]["ownerReferences"][0]["uid"] = store.create(_job(held))["metadata"]["uid"]
            started = store.create(started)
            clock.jump(-held.start / 1000)
            told.append((held.start, started))
            used = chance.choice((0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.1))
            uses[held.node][started["metadata"]["uid"]] = Sample(used, min(1.0, used))
            device, bytes = (held.node, held.device), started["status"]["memoryBytes"]
            used_bytes[device] += int(used * bytes)
            over_bytes[device] += int(max(0.0, used - 1) * bytes)
    for node in nodes:
        for each in node["status"]["devices"]:
            device = (node["metadata"]["name"], each["index"])
            each["figures"] = {
                "usedMemoryBytes": used_bytes[device], "busy": chance.randrange(300, 990) if used_bytes[device] else 0,
                "powerWatts": chance.randrange(250, 690) if used_bytes[device] else 72,
            }  # fmt: skip
            each["overusedMemoryBytes"] = over_bytes[device]
        store.create(node)
    for number, (user, latest) in enumerate((("root", 95), ("bob", 130))):
        waits = Held(900 + number, user, f"waits-{number}", "default", "", "gpu-2", number, 0, 0, 50)
        promise = {"startBy": at(latest * MINUTE), "node": waits.node, "device": waits.device, "madeAt": at(0)}
        store.create(waits.document(phase="Pending", promise=promise))
        status = {"phase": "Pending", "attemptCount": 0, "conditions": [
            documents.condition("Scheduled", False, "WaitingForShare", "no device has 50% free", minutes=9)
        ]}  # fmt: skip
        store.create(_submitted(documents.job(waits.job, status=status), user))
    with closing(HistoryRecorder(history_file(home), clock, retention=1e9, every=60)) as recorder:
        # In the order in which the store's log told them, the nodes first.
        ordered = sorted(told, key=lambda one: (one[1]["kind"] != "GPUNode", one[0]))
        recorder.take("here", [WatchEvent("MODIFIED", number, each) for number, (_, each) in enumerate(ordered, 1)])
        for node, samples in uses.items():
            recorder.sampled(node, samples)


def _job(held: Held) -> Document:
    job = documents.running(held.job, held.node, gpu={"memory": f"{held.share}%", "duration": "4h"})
    job["status"]["startTime"] = job["status"]["attempts"][0]["startTime"] = at(held.start)
    return _submitted(job, held.user)


def at_hour(milliseconds: int) -> int:
    """Of the day."""
    return (NOW + timedelta(milliseconds=milliseconds)).hour


def _submitted(job: Document, user: str) -> Document:
    me = Identity.of_this_process()
    job["metadata"]["annotations"] = Submitter(user, me.uid if user == me.name else None).annotations
    return job


@contextmanager
def pool(filled: Callable[[MemoryStore, Path, FakeClock], object] = fill) -> Iterator[tuple[str, str]]:
    """The address of a server, and the path that signs in."""
    clock = FakeClock(NOW)
    store = MemoryStore(clock)
    with tempfile.TemporaryDirectory() as directory, socket.socket() as listening:
        home = Path(directory) / "home"
        home.mkdir(mode=0o700)
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        page_address.write(home, PageAddress(url))
        filled(store, home, clock)
        asks = Identity.of_this_process()
        served = patch("cumulus.service.service.Service.is_served", lambda self: True)
        with served, serving(listening, store, home, clock, FakeInfrastructure(), lambda: asks, RequestLimits()):
            yield url, _code(url)


def _code(url: str) -> str:
    import json
    from urllib.request import Request, urlopen

    request = Request(f"{url}/cumulus/v1/page_link", b"{}", {"content-type": "application/json"})
    with urlopen(request) as answer:
        return f"/ui/enter?code={json.load(answer)['value']['code']}"


@contextmanager
def daemon() -> Iterator[tuple[str, str]]:
    """The same of a real one, with jobs that run and wait."""
    with tempfile.TemporaryDirectory() as directory, serving_machine(Machine(Path(directory) / "m")) as machine:
        machine.apply(
            manifest("train", STEPS, memory="25%", duration="30m"),
        )
        eventually(lambda: machine.get("gpujob", "train").get("status", {}).get("phase") == "Running")
        # Only now: of jobs that come together any may be the first.
        machine.apply(manifest("waits", "true", memory="90%", duration="10m"))
        eventually(lambda: "default/waits" in machine.ok("queue"))
        url, slash, path = machine.ok("ui", "--print").split()[0].partition("/ui/")
        yield url, slash + path


def take(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        with pool() as (url, enter):
            _pictures(browser, url, enter, PAGES, folder)
        with daemon() as (url, enter):
            _pictures(browser, url, enter, OF_A_DAEMON, folder)
    if pngquant := shutil.which("pngquant"):
        subprocess.run(
            [pngquant, "--force", "--ext=.png", "--quality=60-90", *map(str, folder.glob("*.png"))], check=True
        )


def _pictures(browser: Browser, url: str, enter: str, pages: Mapping[str, str], folder: Path) -> None:
    cookies: Any = None
    for width, viewport in VIEWS.items():
        for scheme in SCHEMES:
            options = {"viewport": viewport, "color_scheme": scheme, "storage_state": cookies, "timezone_id": "UTC"}
            with watched_context(browser, **options) as (context, _):
                page = context.new_page()
                if cookies is None:
                    page.goto(url + enter)
                    cookies = context.storage_state()
                for name, path in pages.items():
                    page.goto(url + path)
                    if name == "overview":
                        drawn = "document.querySelector('lease-timeline')?.model?.rows.length > 0"
                        eventually(lambda page=page, drawn=drawn: page.evaluate(drawn))
                    if name == "users":
                        page.locator(".u-legend").first.wait_for()
                    page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", animations="disabled")


if __name__ == "__main__":
    take(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
