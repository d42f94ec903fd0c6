"""The timeline alone in a browser, over data that are made up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.axe import violations
from tests.browser.chromium import PHONE
from tests.browser.conftest import Opens
from tests.browser.harness import Harness, harness
from tests.browser.synthetic import HOUR, timeline
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from cumulus.answers.history import Lane, Span, Timeline

# Asked from outside: what Playwright waits for itself is evaluated by the page, whose policy forbids it.
PAINTED = "document.querySelector('lease-timeline')?.model?.rows.length > 0"
MINUTE = 60_000


def milliseconds() -> int:
    return int(time.time() * 1000)


def span(kind: str = "Lease", start: float = -1, end: float = 1, **fields: Any) -> Span:
    """From so many hours from now until so many."""
    now = milliseconds()
    made = {
        "kind": kind, "start": int(now + start * HOUR), "end": int(now + end * HOUR), "share": 0.5, "offset": 0.0,
        "used": None, "busy": None, "job": "team/train", "user": "alice", "phase": "", "enforcement": "hard",
        "latestStart": None, "merged": 1,
    }  # fmt: skip
    return made | fields  # type: ignore[return-value]


def lane(*spans: Span, node: str = "gpu-1", device: int = 0, **fields: Any) -> Lane:
    made = {
        "node": node, "device": device, "uuid": f"GPU-{device}", "name": "NVIDIA H200", "memoryBytes": 1 << 37,
        "parent": None, "healthy": True, "spans": sorted(spans, key=lambda span: span["start"]),
    }  # fmt: skip
    return made | fields  # type: ignore[return-value]


def of(*lanes: Lane) -> Timeline:
    now = milliseconds()
    return {"now": now, "start": now - 100 * HOUR, "end": now + 100 * HOUR, "lanes": list(lanes)}


@pytest.fixture(scope="module")
def server() -> Iterator[Harness]:
    with harness(lambda query: of()) as made:
        yield made


@pytest.fixture
def served(server: Harness) -> Harness:
    server.answer = lambda query: timeline(milliseconds())
    server.asked.clear()
    return server


def opened(open_page: Opens, served: Harness, **options: Any) -> Page:
    page = open_page(served.url, **options)
    eventually(lambda: page.evaluate(PAINTED), what="the timeline is painted")
    return page


def ask(page: Page, expression: str, *arguments: Any) -> Any:
    """The value of an expression in which `t` is the timeline, and `a` are the arguments."""
    return page.evaluate(
        f"(a) => {{ const t = document.querySelector('lease-timeline'); return {expression}; }}", arguments
    )


def place(page: Page, row: int, hours: float, part: float = 0.25) -> tuple[float, float]:
    """Where on the screen a moment is in a row, by its number."""
    x, y = ask(
        page,
        """(() => { const box = t.canvas.getBoundingClientRect(), row = t.model.rows[a[0]];
        const top = box.top + 26 + row.top - t.scroller.scrollTop;
        return [box.left + t.painter.gutter + t.view.x(t.now + a[1] * 3600), top + row.height * a[2]]; })()""",
        row, hours, part,
    )  # fmt: skip
    return x, y


def pixel(page: Page, x: float, y: float) -> list[int]:
    """Red, green and blue there."""
    found: list[int] = ask(
        page,
        """(() => { const box = t.canvas.getBoundingClientRect(), ratio = devicePixelRatio; t._frame();
        const [x, y] = [(a[0] - box.left) * ratio, (a[1] - box.top) * ratio];
        return [...t.canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3)]; })()""",
        x, y,
    )  # fmt: skip
    return found


def card(page: Page) -> Locator:
    return page.locator(".timeline-card")


def test_lanes_stand_by_node_and_instances_within_their_gpu(served: Harness, open_page: Opens) -> None:
    page = opened(open_page, served)
    labels = ask(page, "t.model.rows.map((row) => [row.label, row.depth])")
    assert labels[:8] == [
        ["gpu-01", 0], ["Device 0", 1], ["GPU in MIG instances", 1], ["MIG 1", 2], ["MIG 2", 2], ["MIG 3", 2],
        ["Device 4", 1], ["Device 5", 1],
    ]  # fmt: skip
    assert [label for label, depth in labels if depth == 0] == ["gpu-01", "gpu-02", "gpu-03"]
    assert violations(page) == []


def test_a_look_for_each_kind(served: Harness, open_page: Opens) -> None:
    """Height is the share; what runs shows its use; what is to come is no solid area."""
    served.answer = lambda query: of(
        lane(
            span(end=-0.5, start=-2),
            span(start=-0.4, used=0.5),
            span("Promise", 1.1, 2, latestStart=milliseconds() + 2 * HOUR),
        ),
        lane(span(start=-2, used=1.2), device=1),
        lane(span("Drain", -2, 2, share=1.0, job=None, user=None), span(start=-1, end=-0.5, offset=0.5), device=2),
    )
    page = opened(open_page, served)
    lane_color = pixel(page, *place(page, 1, -2.5))
    past = pixel(page, *place(page, 1, -1, 0.3))
    assert past != lane_color
    assert pixel(page, *place(page, 1, -1, 0.8)) == lane_color, "above the share"
    used, idle = pixel(page, *place(page, 1, -0.2, 0.45)), pixel(page, *place(page, 1, -0.2, 0.15))
    assert used != idle
    assert idle != lane_color, "what is held and not used is held all the same"
    assert pixel(page, *place(page, 1, 0.5, 0.45)) == pixel(page, *place(page, 1, 0.5, 0.15)), "nobody has used it yet"
    over = {tuple(pixel(page, *place(page, 2, -1 + step / 100, 0.12))) for step in range(12)}
    assert len(over) > 1, "hatched, not told by its colour alone"
    promised = {tuple(pixel(page, *place(page, 1, 1.2 + step / 100, 0.2))) for step in range(12)}
    assert len(promised) > 1


def test_pointing_tells_and_a_click_opens_the_job(served: Harness, open_page: Opens) -> None:
    latest = milliseconds() + 3 * HOUR
    served.answer = lambda query: of(lane(
        span(end=1.5, used=0.8, busy=0.3, phase="Bound"), span("Parked", -1, 2, offset=0.5),
        span("Promise", 2, 3, job=None, user="bob", latestStart=latest),
    ))  # fmt: skip
    page = opened(open_page, served)
    page.mouse.move(*place(page, 1, 0.2))
    words = card(page).inner_text()
    use = ("memory 80% used, 20% idle", "compute 30% busy")
    for part in ("team/train", "alice", "Bound", "50%", *use, "hard", "gpu-1, Device 0", "in 1 h"):
        assert part in words
    page.mouse.move(*place(page, 1, 2.5))
    assert "A job of bob" in card(page).inner_text()
    assert "at the latest" in card(page).inner_text()
    page.mouse.click(*place(page, 1, 2.5))
    page.mouse.move(*place(page, 1, -2))
    assert card(page).is_hidden()
    assert page.url == served.url, "nobody may see that job"
    page.mouse.click(*place(page, 1, 0.2))
    page.wait_for_url("**/ui/jobs/team/train")


def test_keys_do_all_that_a_mouse_does(served: Harness, open_page: Opens) -> None:
    served.answer = lambda query: of(
        lane(span(start=-3, end=-2, job="team/early"), span(start=-1, job="team/now")),
        lane(span(job="team/below"), device=1),
    )
    page = opened(open_page, served)
    page.locator("lease-timeline canvas").first.focus()
    spoken = page.locator(".timeline-spoken")
    for key, job in (
        ("ArrowRight", "now"),
        ("ArrowLeft", "early"),
        ("ArrowRight", "now"),
        ("ArrowDown", "below"),
        ("ArrowUp", "now"),
    ):
        page.keyboard.press(key)
        assert f"team/{job}." in spoken.inner_text()
        assert f"team/{job}" in card(page).inner_text()
    before = ask(page, "[t.view.from, t.view.span]")
    page.keyboard.press("+")
    assert ask(page, "t.view.span") == pytest.approx(before[1] / 1.5)
    page.keyboard.press("-")
    page.keyboard.press("Shift+ArrowLeft")
    assert ask(page, "t.view.from") < before[0] - 60
    assert ask(page, "t.following") is False
    page.keyboard.press("Home")
    assert ask(page, "[t.following, t.view.from < t.now && t.now < t.view.until]") == [True, True]
    page.keyboard.press("Escape")
    assert card(page).is_hidden()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/jobs/team/now")


def test_the_wheel_zooms_about_the_pointer_and_pans(served: Harness, open_page: Opens) -> None:
    page = opened(open_page, served)
    page.get_by_role("button", name="Later").click()
    x, y = place(page, 1, 3)
    page.mouse.move(x, y)
    at = "t.view.time(a[0] - t.canvas.getBoundingClientRect().left - t.painter.gutter)"
    held, span_before = ask(page, at, x), ask(page, "t.view.span")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    eventually(lambda: ask(page, "t.view.span") < span_before * 0.7)
    assert ask(page, at, x) == pytest.approx(held, abs=30), "a pixel is 20 seconds wide"
    begin = ask(page, "t.view.from")
    page.keyboard.down("Shift")
    page.mouse.wheel(0, 100)
    page.keyboard.up("Shift")
    eventually(lambda: ask(page, "t.view.from") > begin)
    top = ask(page, "t.scroller.scrollTop")
    page.mouse.wheel(0, 60)
    eventually(lambda: ask(page, "t.scroller.scrollTop") > top, what="lanes scroll")
    begin = ask(page, "t.view.from")
    page.mouse.down()
    page.mouse.move(x - 50, y, steps=3)
    page.mouse.up()
    assert ask(page, "t.view.from") > begin
    assert page.url == served.url, "a drag is no click"


def test_fingers(served: Harness, open_page: Opens) -> None:
    served.answer = lambda query: of(lane(span()))
    page = opened(open_page, served, viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    x, y = place(page, 1, -0.5)
    page.touchscreen.tap(x, y)
    eventually(lambda: card(page).is_visible())
    assert "team/train" in card(page).inner_text()
    assert page.url == served.url, "the first touch only tells"
    length = ask(page, "t.view.span")
    touch("touchStart", (x, y), (x + 60, y))
    touch("touchMove", (x - 20, y), (x + 80, y))
    touch("touchMove", (x - 40, y), (x + 100, y))
    touch("touchEnd")
    eventually(lambda: ask(page, "t.view.span") < length * 0.8, what="two fingers zoom")
    begin = ask(page, "t.view.from")
    touch("touchStart", (x, y))
    touch("touchMove", (x - 15, y))
    touch("touchMove", (x - 45, y))
    touch("touchEnd")
    eventually(lambda: ask(page, "t.view.from") > begin, what="one finger pans")
    assert ask(page, "[t.canvas.width / t.canvas.clientWidth, document.documentElement.scrollWidth]") == [2, 390]
    page.keyboard.press("Home")
    ask(page, "t._follow(true)")
    # What the first touch told of is told of still: then the next one would open it already, and one more would meet
    # a page that is on its way out, which may never answer it.
    ask(page, "t._point(null)")
    x, y = place(page, 1, -0.5)
    page.touchscreen.tap(x, y)
    eventually(lambda: card(page).is_visible(), what="the first touch tells")
    assert page.url == served.url
    page.touchscreen.tap(x, y)
    page.wait_for_url("**/ui/jobs/team/train")


def test_it_asks_for_more_than_it_shows_and_only_when_it_rests(served: Harness, open_page: Opens) -> None:
    page = opened(open_page, served)
    eventually(lambda: len(served.asked) >= 2, what="first what is seen, then what is beside it")
    first, wide = served.asked[:2]
    assert (first["end"] - first["start"]) / HOUR == pytest.approx(6.6, abs=0.1), (
        "a margin, since the window goes on with the clock"
    )
    assert (wide["end"] - wide["start"]) / HOUR == pytest.approx(18, abs=0.1)
    assert 1000 < first["pixels"] < 1280
    assert wide["pixels"] == pytest.approx(3 / 1.1 * first["pixels"], abs=4)
    eventually(lambda: ask(page, "t.source.pending === null"))
    later = page.get_by_role("button", name="Later")
    asked = len(served.asked)
    later.click()
    later.hover()
    assert len(served.asked) == asked, "a step within what is known"
    # Without a rest between them, however slow the machine is.
    later.evaluate("(button) => { for (let n = 0; n < 5; n += 1) button.click(); }")
    eventually(lambda: served.asked[-1]["start"] > wide["start"] + 24 * HOUR)
    assert len(served.asked) <= asked + 3


def test_a_slow_server_is_asked_once(served: Harness, open_page: Opens) -> None:
    """The window goes on with the clock, and is painted anew each second, before its first answer is there."""
    answers = threading.Event()

    def slow(query: Mapping[str, int]) -> Timeline:
        answers.wait(PATIENCE)
        return of(lane(span()))

    served.answer = slow
    page = open_page(served.url)
    eventually(lambda: page.evaluate("document.querySelector('lease-timeline')?.painted > 4"), what="it is painted")
    asked = len(served.asked)
    answers.set()
    eventually(lambda: page.evaluate(PAINTED), what="the answer is there")
    assert asked == 1


def test_the_old_picture_stays_until_the_new_one_is_there(served: Harness, open_page: Opens) -> None:
    page = opened(open_page, served)
    go_on = threading.Event()

    def slow(query: Mapping[str, int]) -> Timeline:
        go_on.wait(PATIENCE)
        return of(lane(node="after"))

    served.answer = slow
    page.evaluate("document.body.dispatchEvent(new Event('cumulus-changed'))")
    eventually(lambda: ask(page, "t.source.pending !== null"))
    assert ask(page, "t.model.rows[0].label") == "gpu-01"
    go_on.set()
    eventually(lambda: ask(page, "t.model.rows[0].label") == "after")


def test_a_server_that_is_away_is_said_and_asked_again(served: Harness, open_page: Opens) -> None:
    page = opened(open_page, served)
    page.context.set_offline(True)
    page.evaluate("document.body.dispatchEvent(new Event('cumulus-changed'))")
    trouble = page.locator(".timeline-trouble")
    eventually(lambda: "does not answer" in trouble.inner_text())
    assert ask(page, "t.model.rows.length") > 10
    page.context.set_offline(False)
    eventually(lambda: trouble.inner_text() == "")
    page.watched.faults.clear()  # type: ignore[attr-defined]


def test_light_and_dark(served: Harness, open_page: Opens) -> None:
    page = opened(open_page, served, color_scheme="light")
    corner = place(page, 1, 2.3, 0.98)
    assert min(pixel(page, *corner)) > 200
    page.emulate_media(color_scheme="dark")
    eventually(lambda: max(pixel(page, *corner)) < 80)
    assert violations(page) == []


def test_text_can_be_read_on_every_look(served: Harness, open_page: Opens) -> None:
    """WCAG's 4.5 to 1, of the text on what lies under it, in both schemes."""
    page = opened(open_page, served)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        contrasts = page.evaluate(
            """async () => {
              const t = document.querySelector("lease-timeline");
              const { colorsOf } = await import("/ui/static/timeline/paint.js");
              const colors = colorsOf(t), rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
              const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
              const light = (c) => c.map((v) => linear(v / 255));
              const luminance = (c) => { const [r, g, b] = light(c); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
              const over = (top, alpha, below) => top.map((v, i) => v * alpha + below[i] * (1 - alpha));
              const contrast = (a, b) => {
                const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
                return (x + 0.05) / (y + 0.05);
              };
              const lane = rgb(colors.lane), text = rgb(colors.text), found = {};
              for (const name of Object.keys(colors).filter((name) => /user|mine/.test(name))) {
                const color = rgb(colors[name]);
                found[`used ${name}`] = contrast(text, over(color, 0.55, over(color, 0.13, lane)));
                found[`past ${name}`] = contrast(text, over(color, 0.42, lane));
              }
              found.muted = contrast(rgb(colors.muted), rgb(colors.background));
              return found;
            }"""
        )
        assert len(contrasts) == 15
        assert {name: found for name, found in contrasts.items() if found < 4.5} == {}, scheme


def test_the_axis_is_in_the_viewers_time_zone(served: Harness, open_page: Opens) -> None:
    """Also on the night in which its clocks change: 3 o'clock follows 1:59."""
    moment = 1774744200
    """2026-03-29 00:30 UTC."""
    for zone, expected in (
        ("Europe/Berlin", ["01:00", "01:30", "03:00", "03:30"]),
        ("Asia/Kathmandu", ["05:30", "06:00", "06:30", "07:00"]),
    ):
        page = opened(open_page, served, timezone_id=zone)
        labels = page.evaluate(
            """(moment) => import('/ui/static/timeline/axis.js')
            .then((axis) => axis.ticks(moment - 2700, moment + 4500, 400).map((tick) => tick.label))""",
            moment,
        )
        assert " ".join(expected) in " ".join(labels), zone


def test_what_others_wrote_is_text(served: Harness, open_page: Opens) -> None:
    evil = "<img src=x onerror=alert(1)>"
    served.answer = lambda query: of(
        lane(span(job=f"team/{evil}", user=evil, phase=evil, enforcement=evil), node=evil, name=evil),
        lane(span(job="javascript:alert(1)/x", user="</canvas>"), node="../../evil", device=1),
    )
    page = opened(open_page, served)
    page.mouse.move(*place(page, 1, 0.2))
    assert card(page).inner_text().count(evil) == 6
    page.locator("summary").click()
    cells = page.locator("tbody td").all_inner_texts()
    assert evil in cells
    assert page.locator("lease-timeline img").count() == 0
    hrefs = page.locator("tbody a").evaluate_all("(all) => all.map((one) => one.getAttribute('href'))")
    assert hrefs[0].startswith("/ui/jobs/team/%3Cimg")
    assert hrefs[1] == "/ui/jobs/javascript%3Aalert(1)/x"


def test_leases_lie_on_what_the_device_is_in(served: Harness, open_page: Opens) -> None:
    """They are what is pointed at; beside them it is the reservation. Keys reach both."""
    reserved = span("Reservation", -0.5, 2.5, share=1.0, job=None, user="carol, vision")
    served.answer = lambda query: of(lane(span(), reserved))
    page = opened(open_page, served)
    page.mouse.move(*place(page, 1, 0.2))
    assert "team/train" in card(page).inner_text()
    page.mouse.move(*place(page, 1, 2))
    assert "Reserved for carol, vision" in card(page).inner_text()
    page.mouse.move(0, 0)
    page.locator("lease-timeline canvas").first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert "Reserved for" in page.locator(".timeline-spoken").inner_text()


def test_the_table_says_what_the_window_shows(served: Harness, open_page: Opens) -> None:
    served.answer = lambda query: of(
        lane(span(start=-60, end=-59, job="team/long-ago"), span(phase="Bound", used=1.1)),
        lane(span("Drain", job=None, user=None), device=1),
    )
    page = opened(open_page, served)
    page.locator("summary").click()
    rows = page.locator("tbody tr")
    eventually(lambda: rows.count() == 2)
    cells = rows.first.locator("td").all_inner_texts()
    assert [cells[index] for index in (0, 1, 2, 3, 4, 5, 6, 10)] == [
        "gpu-1", "Device 0", "Bound", "team/train", "alice", "50%", "memory 110% used, 10% over", "hard",
    ]  # fmt: skip
    assert violations(page) == []
    page.get_by_role("combobox").select_option("1 week")
    eventually(lambda: rows.count() == 3)
