"""The pages of a real daemon, with real jobs, in a browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests import processes
from tests.browser.axe import violations
from tests.browser.chromium import DESKTOP, PHONE, launched, watched_context
from tests.browser.conftest import Opens
from tests.e2e.conftest import Machine, manifest, serving
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

EVIL = "<img src=x onerror=alert(1)>'\"`${7*7}{{7*7}}</pre></script><script>alert(1)</script>"
STEPS = "i=0; while :; do i=$((i+1)); printf '\\033[32mstep\\033[0m %s\\n' $i; sleep 1; done"
JOBS = (
    manifest("train", STEPS, memory="25%", duration="2h"),
    manifest(
        "evil", "printf '%s\\n' \"$TEXT\"; printf '\\033]8;;javascript:alert(1)\\033\\\\link\\n'; exec sleep 7200",
        duration="2h", env=[{"name": "TEXT", "value": EVIL}],
    ) | {"metadata": {"name": "evil", "annotations": {"team.example/note": EVIL}, "labels": {"team": "red"}}},
    manifest("fails", f"printf '%s' '{EVIL.replace(chr(39), '')}' >&2; exit 3"),
)  # fmt: skip
WAITS = manifest("waits", "true", memory="90%", duration="10m")
PAGES = {
    "overview": "/ui/", "queue": "/ui/queue", "jobs": "/ui/jobs", "job": "/ui/jobs/default/train",
    "a job of another's text": "/ui/jobs/default/evil", "nodes": "/ui/nodes", "node": "/ui/nodes/{node}",
    "users": "/ui/users",
    "what would start sooner": "/ui/jobs/default/waits/sooner", "a confirmation": "/ui/jobs/default/train/delete",
}  # fmt: skip


class Site:
    """A daemon with jobs, and a browser's cookies after it has signed in."""

    def __init__(self, machine: Machine, browser: Browser) -> None:
        self.machine = machine
        self.link = machine.ok("ui", "--print").split()[0]
        self.url = self.link.partition("/ui/")[0]
        self.node = machine.items("gpunode")[0]["metadata"]["name"]
        with watched_context(browser) as (context, _):
            page = context.new_page()
            page.goto(self.link)
            assert page.url == f"{self.url}/ui/"
            self.cookies = context.storage_state()

    def address(self, name: str) -> str:
        return self.url + PAGES[name].format(node=self.node)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with serving(Machine(tmp_path_factory.mktemp("site"))) as machine:

        def phases() -> dict[str, str]:
            return {job["metadata"]["name"]: job.get("status", {}).get("phase") for job in machine.items("gpujob")}

        machine.apply(*JOBS)
        there = {"train": "Running", "evil": "Running", "fails": "Failed"}
        eventually(lambda: phases() == there, what=lambda: f"jobs run and have failed: {phases()}")
        # Only now: of jobs that come together any may be the first.
        machine.apply(WAITS)
        eventually(lambda: phases() == there | {"waits": "Pending"}, what=lambda: f"one waits: {phases()}")
        yield machine


@pytest.fixture(scope="module")
def site(machine: Machine, browser: Browser) -> Site:
    return Site(machine, browser)


Shows = Callable[..., "Page"]


@pytest.fixture
def show(site: Site, open_page: Opens) -> Shows:
    """Opens a page by its name in `PAGES`, signed in."""
    return lambda name, **options: open_page(site.address(name), storage_state=site.cookies, **options)


def timeline_of(page: Page, expression: str) -> Any:
    """The value of an expression in which `t` is the timeline, when it has its data."""
    ready = "document.querySelector('lease-timeline')?.model?.rows.length > 0"
    eventually(lambda: page.evaluate(ready), what="the timeline has its data")
    return page.evaluate(f"(() => {{ const t = document.querySelector('lease-timeline'); return {expression}; }})()")


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_every_page_fits_and_keeps_nobody_out(
    site: Site, browser: Browser, viewport: Mapping[str, int], scheme: str
) -> None:
    with watched_context(browser, viewport=viewport, color_scheme=scheme, storage_state=site.cookies) as (context, _):
        page = context.new_page()
        for name in PAGES:
            page.goto(site.address(name))
            if name == "overview":
                timeline_of(page, "0")
            assert page.locator("h1").count() == 1, name
            assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"], f"{name} is too wide"
            if viewport == PHONE:
                # Rows are cards there: nothing is beside the screen.
                wide = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth)"
                assert page.evaluate(f"{wide}.length") == 0, name
            assert_that_nothing_ran(page)
            # What axe finds hardly depends on the width: once for all pages, and for those whose parts move.
            if viewport == DESKTOP or name in ("overview", "job", "queue"):
                assert violations(page) == [], name


def test_the_timeline_is_what_chronos_and_cumulus_say(site: Site, show: Shows) -> None:
    page = show("overview")

    def drawn() -> dict[str, Any]:
        spans = timeline_of(
            page,
            """[...t.model.within(t.now - 1, t.now)].filter(([span]) => span.kind === "Lease" && span.end > t.now + 60)
            .map(([span, lane]) =>
              [span.job, lane.node, lane.device, span.share, span.start, span.end, span.enforcement])""",
        )
        return {job: rest for job, *rest in spans}

    shown = eventually(lambda: (found := drawn()) and len(found) == 2 and found, what="both leases are drawn")
    leases = {lease["user"]: lease for lease in site.machine.leases() if lease["state"] == "Active"}
    assert set(shown) == set(leases) == {"default/train", "default/evil"}
    partitions = {
        f"default/{found['metadata']['labels']['cumulus.dev/job']}": found["status"]
        for found in site.machine.items("gpupartition")
    }
    for job, (node, device, share, start, end, enforcement) in shown.items():
        lease, status = leases[job], partitions[job]
        assert (node, device) == (status["node"], lease["device"]) == (site.node, status["device"])
        assert share == pytest.approx(lease["computePercent"] / 100, abs=0.01)
        assert end == pytest.approx(seconds(lease["expiresAt"]), abs=2)
        assert start == pytest.approx(seconds(lease["grantedAt"]), abs=3)
        assert enforcement == status["enforcement"]


def seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def test_a_change_is_seen_without_being_asked_for(site: Site, show: Shows) -> None:
    """On every page that shows it; the timeline too."""
    jobs, overview = show("jobs"), show("overview")
    timeline_of(overview, "0")
    site.machine.apply(manifest("comes", "exec sleep 7200", memory="5%", duration="20m"))
    jobs.get_by_role("link", name="comes").wait_for()
    held = "[...t.model.within(t.now, t.now + 1)].some(([span]) => span.job === 'default/comes')"
    eventually(lambda: timeline_of(overview, held), what="its lease is on the timeline")
    site.machine.ok("delete", "gpujob", "comes")
    jobs.get_by_role("link", name="comes").wait_for(state="detached")
    gone = held.replace("[...t", "![...t")
    eventually(lambda: timeline_of(overview, gone), what="its lease has ended on the timeline")


def test_what_changes_while_a_page_is_on_its_way_is_seen_there(site: Site, browser: Browser) -> None:
    """Another page of the browser listens, which the new one asks."""
    with watched_context(browser, storage_state=site.cookies) as (context, _watched):
        first = context.new_page()
        first.goto(site.address("jobs"))

        def late(route: Route) -> None:
            site.machine.apply(manifest("meanwhile", "exec sleep 7200", memory="5%", duration="20m"))
            first.get_by_role("link", name="meanwhile").wait_for()
            route.continue_()

        second = context.new_page()
        second.route("**/page.js", late, times=1)
        second.goto(site.address("jobs"))
        second.get_by_role("link", name="meanwhile").wait_for()
    site.machine.ok("delete", "gpujob", "meanwhile")


def test_a_drained_node_is_seen_on_the_timeline(site: Site, show: Shows) -> None:
    """And what runs there still: the drain lies under it."""
    page = show("overview")
    kinds = "[...t.model.within(t.now, t.now + 1)].map(([span]) => span.kind).sort()"
    eventually(lambda: timeline_of(page, kinds) == ["Lease", "Lease"], what="two jobs run")
    site.machine.ok("cordon", site.node)
    eventually(lambda: timeline_of(page, kinds) == ["Drain", "Lease", "Lease"], what="the node is drained")
    site.machine.ok("uncordon", site.node)
    eventually(lambda: timeline_of(page, kinds) == ["Lease", "Lease"], what="the node takes jobs again")


def test_the_log_is_searched_while_it_grows(show: Shows) -> None:
    page = show("job")
    lines, search = page.locator("#log-lines > div:not(.hide)"), page.get_by_label("Find")
    eventually(lambda: lines.count() > 2, what="the log is there")
    search.fill("STEP 2")
    eventually(lambda: {text.strip()[:6] for text in lines.all_inner_texts()} == {"step 2"}, what="that line is left")
    search.fill("no such word")
    before = page.locator("#log-lines > div").count()
    eventually(lambda: page.locator("#log-lines > div").count() > before, what="the log grows")
    assert lines.count() == 0
    search.fill("")
    eventually(lambda: lines.count() > 2)


def test_all_of_the_log_is_searched_with_and_without_scripts(site: Site, show: Shows) -> None:
    for scripts in (True, False):
        page = show("job", java_script_enabled=scripts)
        page.get_by_label("Find").fill("STEP 1")
        page.get_by_label("Find").press("Enter")
        page.get_by_role("link", name="Back to the log").wait_for()
        lines = page.locator(".log > div")
        assert lines.first.inner_text() == "step 1"
        assert all(text.startswith("step 1") for text in lines.all_inner_texts())
        assert "of the whole log have “STEP 1”" in page.locator("#log-note").inner_text()
        page.get_by_label("Find").fill(EVIL[:20])
        page.get_by_role("button", name="Search").click()
        page.get_by_text("No line of the whole log has").wait_for()
        assert_that_nothing_ran(page)
        if scripts:
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") == DESKTOP["width"]


WRONG_CLOCK = """
const Right = Date, wrong = 3 * 3600 * 1000;
globalThis.Date = class extends Right {
  constructor(...given) { super(...(given.length ? given : [Right.now() + wrong])); }
  static now() { return Right.now() + wrong; }
};
"""


def test_times_are_by_the_servers_clock(site: Site, show: Shows) -> None:
    """In a browser that is three hours ahead."""
    page = show("overview", first=WRONG_CLOCK)
    assert page.evaluate("Date.now()") / 1000 - time.time() > 9000
    assert abs(timeline_of(page, "t.now") - time.time()) < 3600
    assert timeline_of(page, "t.view.from < t.now && t.now < t.view.until")
    page.goto(site.address("jobs"))
    row = page.get_by_role("row", name="train")
    words = row.locator("time[data-form=in]")
    # Its lease is one of two hours, which is long over by the browser's clock.
    eventually(lambda: words.inner_text().startswith("in 1h"), what="the lease has not ended")
    assert "h" not in row.locator("time[data-form=ago]").inner_text()


def test_the_plot_of_users_has_the_clock_of_the_timeline(show: Shows) -> None:
    """Of 24 hours, wherever the browser is from."""
    page = show("users", locale="en-US")
    plot = page.locator(".series .u-over")
    plot.wait_for()
    plot.hover()
    time = page.locator(".u-legend .u-series").first.locator(".u-value")
    eventually(lambda: ":" in time.inner_text(), what="the legend tells the moment")
    assert "AM" not in time.inner_text() + page.locator("main time").first.get_attribute("title")
    assert "PM" not in time.inner_text() + page.locator("main time").first.get_attribute("title")


def assert_that_nothing_ran(page: Page) -> None:
    """Of what the job called evil wrote. A script that ran would have opened a dialog or asked for a picture, which
    fails the test too."""
    found = page.evaluate("document.querySelectorAll('img, main script, a[href^=javascript]').length")
    assert found == 0, page.url


def test_what_others_wrote_is_text(site: Site, show: Shows) -> None:
    """In the fields of a job, its log, its messages, and in an address."""
    page = show("a job of another's text")
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    eventually(lambda: EVIL in page.locator("#log").inner_text(), what="the log shows it as it is")
    page.evaluate("() => document.querySelectorAll('main details').forEach((one) => { one.open = true; })")
    assert "<img src=x onerror=alert(1)>" in page.locator("main details", has_text="Manifest").inner_text()
    assert_that_nothing_ran(page)
    page.goto(f"{site.url}/ui/jobs/default/fails")
    eventually(lambda: "<img src=x" in page.locator("#log").inner_text(), what="the log of what failed is there")
    assert_that_nothing_ran(page)
    page.goto(f"{site.url}/ui/jobs/default/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert_that_nothing_ran(page)
    page.watched.faults.clear()  # type: ignore[attr-defined]


def test_every_page_is_of_use_without_scripts(site: Site, open_page: Opens) -> None:
    """Reading, and changing something, from a token to a confirmation."""
    page = open_page(site.address("overview"), java_script_enabled=False)
    page.get_by_label("give a token").fill(site.machine.ok("token", "create", "--duration", "2h").strip())
    page.get_by_role("button", name="Sign in").click()
    for name in PAGES:
        page.goto(site.address(name))
        words = page.locator("main").inner_text()
        assert "train" in words or site.node in words or "root" in words, name
    page.goto(site.address("job"))
    page.get_by_role("link", name="Show the end of the log").click()
    assert "step" in page.locator("main").inner_text()
    page.goto(f"{site.url}/ui/jobs/default/waits")
    page.get_by_role("link", name="Suspend").click()
    page.get_by_role("button", name="Suspend").click()
    eventually(lambda: site.machine.get("gpujob", "waits")["spec"].get("suspend"))
    page.get_by_role("link", name="Resume").click()
    page.get_by_role("button", name="Resume").click()
    eventually(lambda: not site.machine.get("gpujob", "waits")["spec"].get("suspend"))


FOCUSABLE = """[...document.querySelectorAll(
  "a[href], button, input:not([type=hidden]), select, summary, [tabindex='0']"
)].filter((one) => one.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true })).length"""


@pytest.mark.parametrize("name", ["overview", "job"])
def test_keys_reach_everything(show: Shows, name: str) -> None:
    page = show(name)
    if name == "overview":
        timeline_of(page, "0")
    expected = page.evaluate(FOCUSABLE)
    page.evaluate("() => { window.reached = new Set(); }")
    for _ in range(expected + 5):
        page.keyboard.press("Tab")
        page.evaluate("document.activeElement !== document.body && window.reached.add(document.activeElement) && 0")
    assert page.evaluate("window.reached.size") >= expected


def test_a_page_outlives_a_restart_of_the_daemon(site: Site, show: Shows) -> None:
    """It says that the server is away, comes back by itself, and shows what has changed since."""
    jobs, overview = show("jobs"), show("overview")
    timeline_of(overview, "0")
    machine = site.machine
    processes.end([machine.daemons.pop()])
    eventually(lambda: jobs.locator("#connection").is_visible(), what="the page says that it lost the server")
    assert jobs.get_by_role("link", name="train").is_visible()
    machine.serve()
    machine.ready()
    machine.apply(manifest("after", "exec sleep 7200", memory="5%", duration="20m"))
    jobs.get_by_role("link", name="after").wait_for()
    eventually(lambda: not jobs.locator("#connection").is_visible(), what="it has the server again")
    held = "[...t.model.within(t.now, t.now + 1)].some(([span]) => span.job === 'default/after')"
    eventually(lambda: timeline_of(overview, held), what="the timeline goes on")
    assert jobs.url == site.address("jobs"), "still signed in"
    machine.ok("delete", "gpujob", "after")
    for page in (jobs, overview):
        page.watched.faults.clear()  # type: ignore[attr-defined]


def test_who_is_no_longer_signed_in_is_told(show: Shows) -> None:
    page = show("overview")
    timeline_of(page, "0")
    page.context.clear_cookies()
    timeline_of(page, "t.source.refresh()")
    eventually(lambda: "Sign in again" in page.locator(".timeline-trouble").inner_text(), what="the timeline says so")
    page.watched.faults.clear()  # type: ignore[attr-defined]


IDLE_SECONDS = 30


@pytest.mark.slow
def test_an_idle_page_is_quiet(site: Site, browser: Browser) -> None:
    """Under 1 KB a second: what is sent to a page on which nothing happens but a log's line a second elsewhere."""
    for name in ("overview", "jobs", "queue", "nodes"):
        with watched_context(browser, storage_state=site.cookies) as (context, _):
            page = context.new_page()
            received: list[float] = []
            session = context.new_cdp_session(page)
            session.send("Network.enable")
            for event in ("Network.dataReceived", "Network.loadingFinished"):
                session.on(event, lambda told, received=received: received.append(told["encodedDataLength"]))
            page.goto(site.address(name))
            page.wait_for_timeout(5000)
            received.clear()
            page.wait_for_timeout(IDLE_SECONDS * 1000)
            assert sum(received) / IDLE_SECONDS < 1024, name


@pytest.mark.slow
def test_a_hundred_pages_at_once(site: Site, browser: Browser) -> None:
    """Two browsers of 50 tabs: all are told of a change, by one stream a browser."""
    with ExitStack() as stack:
        pages = []
        for each in (browser, stack.enter_context(launched(browser.browser_type))):
            context, _ = stack.enter_context(watched_context(each, storage_state=site.cookies))
            for number in range(50):
                page = context.new_page()
                page.goto(site.address(("overview", "jobs", "queue", "nodes", "users")[number % 5]))
                pages.append(page)
        site.machine.apply(manifest("many", "exec sleep 7200", memory="5%", duration="20m"))
        shown = [page for page in pages if "/ui/jobs" in page.url]
        assert len(shown) == 20
        for page in shown:
            page.bring_to_front()
            page.get_by_role("link", name="many").wait_for()
        site.machine.ok("delete", "gpujob", "many")
