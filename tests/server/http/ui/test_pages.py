"""What the pages show, to whom, and that nothing others wrote is more than text there."""

from __future__ import annotations

import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.logs import Gap
from cumulus.errors import StoreUnavailable
from cumulus.resources.key import Document, Key
from cumulus.resources.query import WatchEvent
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_UID
from cumulus.server.http.ui import changes, job_log, log_search, sparklines
from cumulus.service.history import History
from cumulus.service.identity import Identity
from cumulus.service.logs import Logs
from cumulus.service.service import Service
from cumulus.store.base import Store
from cumulus.store.memory import MemoryStore
from tests.documents import active, ago, ahead, job, lease, node, partition, running
from tests.server.http.conftest import Served
from tests.server.http.ui.conftest import Browser, stream
from tests.service.test_access import binding
from tests.waiting import eventually

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`{{7*7}}\u202e\x1b[31m"
PAGES = (
    "/ui/", "/ui/queue", "/ui/jobs", "/ui/nodes", "/ui/users", "/ui/jobs/default/go", "/ui/jobs/default/wait",
    "/ui/jobs/default/go/log", "/ui/jobs/default/go/delete", "/ui/jobs/default/wait/sooner", "/ui/nodes/gpu-1",
)  # fmt: skip
ANN = Identity("ann")


class Reader(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def of(document: Document, user: str, uid: int | None = None) -> Document:
    document["metadata"]["annotations"] = {SUBMITTER: user, **({SUBMITTER_UID: str(uid)} if uid is not None else {})}
    return document


def evil() -> list[Document]:
    """Objects that say EVIL wherever people and programs write text."""
    go = of(running("go"), EVIL)
    go["metadata"]["labels"] = {}
    go["spec"] |= {
        "command": [EVIL, EVIL], "args": [EVIL], "env": [{"name": "A", "value": EVIL}], "workingDir": f"/{EVIL}",
        "image": EVIL, "gpu": {**go["spec"]["gpu"], "selector": {"name": EVIL}},
        "checkpoint": {"path": f"/{EVIL}"},
    }  # fmt: skip
    go["status"]["conditions"].append(
        {"type": "Overused", "status": EVIL, "reason": EVIL, "message": EVIL, "lastTransitionTime": EVIL}
    )
    go["status"]["attempts"][0] |= {"message": EVIL, "reason": EVIL}
    held = of(active("go-a1-r0-d0"), EVIL)
    held["spec"]["user"] = EVIL
    held["status"]["conditions"] = [{"type": "Active", "status": "True", "reason": EVIL, "message": EVIL}]
    machine = node("gpu-1")
    machine["status"]["hostname"] = EVIL
    machine["status"]["devices"][0] |= {
        "name": EVIL, "vendor": EVIL, "fault": EVIL,
        "unleasedProcesses": [{"pid": 1, "user": EVIL, "program": EVIL, "memoryBytes": 1}],
        "foreignLeases": [
            {"partitionId": EVIL, "memoryBytes": 1, "compute": 1, "expiresAt": ahead(hours=1), "user": EVIL}
        ],
    }  # fmt: skip
    event = {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "GPUJob", "namespace": "default", "name": "go"}, "reason": EVIL, "message": EVIL,
        "type": EVIL, "source": {"component": EVIL}, "firstTimestamp": EVIL, "lastTimestamp": EVIL,
    }  # fmt: skip
    wait = of(job("wait", command=[EVIL], gpu={"memory": "100%"}), EVIL)
    return [go, held, machine, event, wait]


def plant(store: Store, documents: list[Document]) -> None:
    for each in documents:
        store.create(each)


def test_what_others_wrote_is_text(browser: Browser, served: Served) -> None:
    plant(served.store, evil())
    served.outside.logs.chunks[1, 0] = [EVIL.encode(), b"\n"]
    browser.sign_in()
    asked = [*PAGES, f"/ui/jobs?q={'%22%3E%3Cscript%3Ealert(1)%3C/script%3E'}", "/ui/jobs?phase=%3Cscript%3E",
             "/ui/sign-in?next=/ui/%22%3E%3Cscript%3E", "/ui/jobs/default/go?done=%3Cscript%3E",
             "/ui/jobs/%3Cscript%3E/%3Cscript%3E", "/ui/queue?queue=%3Cscript%3E"]  # fmt: skip
    for url in asked:
        answer = browser.get(url)
        assert answer.code in (200, 404), (url, answer.body)
        html = answer.body.decode()
        read = Reader(html)
        for tag, attributes in read.tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (url, tag)
            assert tag != "script" or str(attributes.get("src")).startswith("/ui/static/"), (url, attributes)
            assert tag not in ("img", "iframe", "object", "embed", "style"), (url, tag)
            for name in ("href", "action", "src"):
                assert str(attributes.get(name, "/")).startswith(("/", "#")), (url, attributes)
        assert "49" not in read.text or "{{7*7}}" in read.text
        assert not set("\u202e\x1b\x00") & set(html), url
    assert "alert(1)" in browser.page("/ui/jobs/default/go")


def test_my_jobs_come_first(browser: Browser, served: Served) -> None:
    me = Identity.of_this_process()
    plant(served.store, [of(job("theirs"), "ann", 1001), of(job("mine"), me.name, me.uid), node("gpu-1")])
    browser.sign_in()
    html = browser.page("/ui/jobs")
    assert html.index("My jobs") < html.index(">mine<") < html.index("Others") < html.index(">theirs<")
    assert ">theirs<" not in browser.page("/ui/jobs?q=mine")
    assert ">mine<" not in browser.page("/ui/jobs?phase=Failed")


def test_a_job_that_waits_says_why_and_what_would_start_sooner(browser: Browser, served: Served) -> None:
    plant(served.store, [running("go"), active("go-a1-r0-d0"), node("gpu-1", free=0), job("wait")])
    browser.sign_in()
    assert "What would start sooner" in browser.page("/ui/jobs/default/wait")
    html = browser.page("/ui/jobs/default/wait/sooner")
    assert "half as long" in html
    assert ">30m<" in html
    assert ">25%<" in html
    before = served.store.revision()
    assert "as you say" in browser.page("/ui/jobs/default/wait/sooner?memory=10%25&duration=5m")
    assert served.store.revision() == before, "asking makes nothing"


def test_others_see_what_their_roles_allow(browser: Browser, served: Served) -> None:
    """Everybody sees who holds a share; jobs of a namespace, who has a role there."""
    plant(served.store, [
        of(running("go"), "bob", 1002), active("go-a1-r0-d0"), node("gpu-1"), of(job("seen", namespace="open"), "bob"),
        binding("viewer", "User", "ann", "open"),
    ])  # fmt: skip
    browser.sign_in_as(ANN)
    html = browser.page("/ui/jobs")
    assert ">seen<" in html
    assert ">go<" not in html
    assert browser.get("/ui/jobs/default/go").code == 403
    assert "bob" in browser.page("/ui/queue") or "default/go" in browser.page("/ui/queue")
    html = browser.page("/ui/jobs/open/seen")
    assert not re.search(r'class="button', html), "a viewer has no buttons"
    for name in ("suspend", "rerun", "delete"):
        assert browser.get(f"/ui/jobs/open/seen/{name}").code == 403
        assert browser.send(f"/ui/jobs/open/seen/{name}").code == 403
    assert served.store.get(Key("GPUJob", "open", "seen"))["metadata"].get("deletionTimestamp") is None


def test_buttons_do_what_they_say(browser: Browser, served: Served) -> None:
    plant(served.store, [of(running("go"), "bob"), active("go-a1-r0-d0"), node("gpu-1")])
    browser.sign_in()
    key = Key("GPUJob", "default", "go")
    uid = served.store.get(key)["metadata"]["uid"]
    html = browser.page("/ui/jobs/default/go/suspend")
    assert "It keeps no checkpoints: 5m of work are lost" in html
    answer = browser.send("/ui/jobs/default/go/suspend", uid=uid)
    assert (answer.code, answer.headers["location"]) == (303, "/ui/jobs/default/go?done=suspend")
    assert served.store.get(key)["spec"]["suspend"] is True
    assert "being suspended" in browser.page("/ui/jobs/default/go?done=suspend")
    browser.send("/ui/jobs/default/go/resume", uid=uid)
    assert not served.store.get(key)["spec"].get("suspend")
    assert b"no duration" in browser.send("/ui/jobs/default/go/extend", uid=uid, by="soon").body
    assert browser.send("/ui/jobs/default/go/delete", uid="another").code == 409
    answer = browser.send("/ui/jobs/default/go/delete", uid=uid)
    assert (answer.code, answer.headers["location"]) == (303, "/ui/jobs?done=delete")
    told = [each for each in browser.lines if each["event"] == "request" and each["path"].startswith("/ui/")]
    assert told[-1]["path"] == "/ui/jobs/default/go/delete"


def test_a_button_that_is_pressed_twice_lengthens_a_lease_once(browser: Browser, served: Served) -> None:
    go = served.store.create(running("go"))
    plant(served.store, [active("go-a1-r0-d0", owner=go), node("gpu-1")])
    browser.sign_in()
    found = re.search('name="ends" value="([^"]+)"', browser.page("/ui/jobs/default/go/extend"))
    assert found is not None
    held = Key("GPUPartition", "default", "go-a1-r0-d0")
    pressed = {"uid": go["metadata"]["uid"], "by": "1m", "ends": found[1]}
    assert browser.send("/ui/jobs/default/go/extend", **pressed).code == 303
    until = served.store.get(held)["spec"]["until"]
    twice = browser.send("/ui/jobs/default/go/extend", **pressed)
    assert (twice.code, b"ends at another time by now" in twice.body) == (409, True)
    assert served.store.get(held)["spec"]["until"] == until


def test_what_did_not_change_is_not_sent_again(browser: Browser, served: Served) -> None:
    plant(served.store, [node("gpu-1"), job("train")])
    browser.sign_in()
    for url in PAGES[:5]:
        first = browser.get(url, hx_request="true")
        again = browser.get(url, hx_request="true", if_none_match=first.headers["etag"])
        assert (again.code, again.body) == (304, b""), url
        assert b"<html" not in first.body
        assert b'id="content"' in first.body


def test_scripts_are_kept_for_ever_under_the_address_of_what_they_hold(browser: Browser) -> None:
    addresses = re.findall(r'"(/ui/static/[^"]+)"', browser.page("/ui/sign-in"))
    browser.sign_in()
    addresses += re.findall(r'"(/ui/static/[^"]+)"', browser.page("/ui/"))
    addresses += re.findall(r'"(/ui/static/[^"]+)"', browser.page("/ui/users"))
    # As a module names another: beside it.
    folder = next(address for address in addresses if address.endswith("/timeline.js")).removesuffix(".js")
    names = ("axis", "elements", "input", "model", "paint", "source", "table", "view", "words")
    addresses += [f"{folder}/{name}.js" for name in names]
    total = 0
    for address in set(addresses):
        answer = browser.get(address, accept_encoding="gzip")
        assert answer.code == 200, address
        assert "immutable" in answer.headers["cache-control"], address
        assert browser.get(address, if_none_match=answer.headers["etag"]).code == 304
        assert answer.headers["content-encoding"] == "gzip"
        total += len(answer.body)
    assert total < 110_000
    for folder in ("", "0123456789abcdef/"):
        answer = browser.get(f"/ui/static/{folder}timeline/axis.js")
        assert (answer.code, answer.headers["cache-control"]) == (200, "no-cache"), folder
    assert browser.get("/ui/static/..%2f__init__.py").code == 404


def test_errors_are_pages(browser: Browser) -> None:
    browser.sign_in()
    for url, code, words in (
        ("/ui/nothing", 404, "no such page"), ("/ui/jobs/default/gone", 404, "not found"),
        ("/ui/jobs/default/gone/log/follow?attempt=x", 400, "are numbers"), ("/ui/nodes/gone", 404, "not found"),
    ):  # fmt: skip
        answer = browser.get(url)
        assert (answer.code, words in answer.body.decode()) == (code, True), answer.body
        assert answer.headers["content-type"].startswith("text/html")


def test_the_log_is_followed_as_events(browser: Browser, served: Served) -> None:
    over = running("go")
    over["status"] |= {"phase": "Succeeded"}
    over["status"]["attempts"][0] |= {"endTime": ahead(), "reason": "Completed"}
    plant(served.store, [over, node("gpu-1")])
    served.outside.logs.chunks[1, 0] = [b"\x1b[31mred\x1b[0m <b>\n50%\r", b"100%\nlast"]
    browser.sign_in()
    body = browser.get("/ui/jobs/default/go/log/follow?follow=true").body.decode()
    assert "event: reset" in body
    assert '["fg1","red"],[""," <b>"]' in body
    assert '["","100%"]' in body
    assert '"partial":[["","last"]]' in body
    assert body.endswith("event: end\ndata: {}\n\n")
    html = browser.page("/ui/jobs/default/go/log")
    assert '<span class="fg1">red</span> &lt;b&gt;' in html
    found = browser.page("/ui/jobs/default/go/log?q=RED").partition('id="log-note"')[2]
    assert "One line of the whole log has “RED”." in found
    assert '<span class="fg1">red</span> &lt;b&gt;' in found
    assert "last" not in found
    saved = browser.get("/ui/jobs/default/go/log/file")
    assert saved.body == b"\x1b[31mred\x1b[0m <b>\n50%\r100%\nlast"
    assert saved.headers["content-disposition"] == 'attachment; filename="go.log"'


def test_a_log_without_an_end_is_drawn_now_and_then(
    browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = running("go")
    over["status"] |= {"phase": "Succeeded"}
    over["status"]["attempts"][0] |= {"endTime": ahead(), "reason": "Completed"}
    plant(served.store, [over, node("gpu-1")])
    monkeypatch.setattr(job_log, "_PARTIAL_SECONDS", 1e9)
    monkeypatch.setattr(job_log, "_MOST_BYTES", 25)
    served.outside.logs.chunks[1, 0] = [b"first\n", *[b"\r%9d" % number for number in range(50)]]
    browser.sign_in()
    body = browser.get("/ui/jobs/default/go/log/follow?follow=true").body.decode()
    assert body.count("event: lines") == 2, body
    assert '{"lines":[],"partial":[["","       49"]]}' in body
    html = browser.page("/ui/jobs/default/go/log")
    assert ("first" in html, "       49" in html) == (False, True)


def test_all_of_a_log_is_searched_in_parts(browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what the page shows, over a gap, what is coloured or drawn anew by what is seen of it, each line once."""
    lines = [
        b"first needle\n",
        *[b"hay\n"] * 9000,
        b"nee\x1b[31mdle in red\n",
        b" 10% needle\r100% nothing\n",
        b"needle",
    ]
    whole = b"".join(lines)
    chunks = [whole[at : at + 1000] for at in range(0, len(whole), 1000)]
    served.outside.logs.chunks[1, 0] = [*chunks[:1], Gap.of(700), *chunks[1:]]
    plant(served.store, [running("go"), node("gpu-1"), binding("viewer", "User", "ann", "other")])
    browser.sign_in()
    url = "/ui/jobs/default/go/log?q=Needle"
    note, found = _found_in(browser.page(url))
    assert note == "3 lines of the whole log have “Needle”. 700 bytes in its middle were not kept."
    assert found == ["first needle", "needle in red", "needle"]
    for name, few in (("MOST_LINES", 1), ("MOST_WORK", 3000)):
        with monkeypatch.context() as patched:
            patched.setattr(log_search, name, few)
            parts, at = [], url
            while at:
                html = browser.page(at)
                parts += _found_in(html)[1]
                assert "this part" in html
                on = re.search(r'href="([^"]+)">Search on', html)
                at = on[1].replace("&amp;", "&") if on else ""
            assert parts == found, name
    assert _found_in(browser.page("/ui/jobs/default/go/log?q=%3Cb%3E")) == (
        "No line of the whole log has “<b>”. 700 bytes in its middle were not kept.",
        [],
    )
    assert browser.get("/ui/jobs/default/go/log?q=x&position=-1").code == 400
    stranger = Browser(served)
    stranger.sign_in_as(ANN)
    assert stranger.get(url).code == 403


def _found_in(html: str) -> tuple[str, list[str]]:
    """What a search says, and the lines."""
    note, _, lines = html.partition('id="log-note"')[2].partition("</p>")
    divs = re.findall(r"<div>(.*?)</div>", lines.partition('<div class="log"')[2].partition("<p>")[0])
    return Reader(note.partition(">")[2]).text, [Reader(each).text for each in divs]


def test_a_log_ends_for_who_may_not_read_it_any_more(
    browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(served.store, [running("go"), node("gpu-1"), binding("viewer", "User", "ann", "default", "sees")])
    served.outside.logs.chunks[1, 0] = [b"seen\n", b"hidden\n"]
    browser.sign_in_as(ANN)
    read = Logs.read

    def slow(self: Logs, *args: Any, **asked: Any) -> Any:
        for number, piece in enumerate(read(self, *args, **asked)):
            if number:
                if number == 1:
                    served.store.delete(Key("RoleBinding", "default", "sees"))
                eventually(lambda: not self._access.may(ANN, "get", "gpujobs/log", "default", "go").allowed)
                monkeypatch.setattr(job_log, "QUIET_SECONDS", 0.0)
            yield piece

    monkeypatch.setattr(Logs, "read", slow)
    body = browser.get("/ui/jobs/default/go/log/follow?follow=true").body.decode()
    assert ("seen" in body, "hidden" in body, "is forbidden" in body) == (True, False, True), body


def test_what_changed_is_told_by_name_to_who_may_see_it(tmp_path: Path) -> None:
    store = MemoryStore()
    plant(store, [binding("viewer", "User", "ann", "open")])
    access = Service(lambda: store, tmp_path, owner=4_000_000_001).access
    held = active("seen-a1-r0-d0")
    held["metadata"] |= {"namespace": "open", "ownerReferences": [{"kind": "GPUJob", "name": "seen", "uid": "u"}]}
    events = [
        WatchEvent("ADDED", 7, each) for each in (held, job("hidden"), lease(ahead()), job("seen", namespace="open"))
    ]  # fmt: skip
    told = changes.told(access, ANN, events)
    assert told == {
        "kinds": ["GPUPartition", "GPUJob"], "keys": ["gpupartition/open/seen-a1-r0-d0", "gpujob/open/seen"]
    }  # fmt: skip
    assert changes.told(access, ANN, [WatchEvent("MODIFIED", 8, lease(ahead()))]) == {}
    many = [WatchEvent("ADDED", 9, job(f"j{number}", namespace="open")) for number in range(200)]
    assert changes.told(access, ANN, many)["keys"] == ["*"]
    store.close()


def test_the_timeline_is_the_histories_own(browser: Browser, served: Served) -> None:
    plant(served.store, [node("gpu-1"), running("go"), active("go-a1-r0-d0")])
    browser.sign_in()
    now = round(served.clock.now().timestamp() * 1000)
    answer = browser.get(f"/ui/data/timeline?start={now - 3_600_000}&end={now + 3_600_000}&pixels=800")
    (lane,) = answer.json["lanes"]
    assert [span["kind"] for span in lane["spans"]] == ["Lease"]
    for query in ("", "?start=a&end=1&pixels=1", "?start=2&end=1&pixels=1", f"?start={9 * 10**20}&end=1&pixels=1"):
        assert browser.get(f"/ui/data/timeline{query}").code == 400, query
    stranger = Browser(served)
    assert stranger.get("/ui/data/timeline", accept="application/json", follow=False).code == 401


def test_large_data_are_compressed_and_pages_with_a_secret_never_are(browser: Browser, served: Served) -> None:
    plant(served.store, [node("gpu-1"), *(of(job(f"train-{number}"), "bob") for number in range(100))])
    for number in range(40):
        served.store.create(active(f"go-{number}", memory="1%", compute=10))
    browser.sign_in()
    now = round(served.clock.now().timestamp() * 1000)
    url = f"/ui/data/timeline?start={now - 3_600_000}&end={now + 3_600_000}&pixels=800"
    plain, packed = browser.get(url), browser.get(url, accept_encoding="gzip, br")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["vary"]
    assert json.loads(gzip.decompress(packed.body))["lanes"] == plain.json["lanes"]
    assert len(packed.body) < len(plain.body) / 4
    assert "content-encoding" not in browser.get("/ui/data/held?days=1", accept_encoding="gzip").headers, "it is small"
    for page in PAGES[:5]:
        answer = browser.get(page, accept_encoding="gzip")
        assert b'name="csrf"' in answer.body, page
        assert "content-encoding" not in answer.headers, page


def test_a_job_tells_its_last_checkpoint_and_what_it_would_lose_now(browser: Browser, served: Served) -> None:
    saves = running("saves", checkpoint={"path": "/ckpt"})
    began = running("began", checkpoint={"path": "/ckpt"})
    saves["status"]["checkpoint"] = {"step": 700, "time": ago(minutes=2)}
    plant(served.store, [node("gpu-1"), saves, began, running("none")])
    browser.sign_in()
    html = browser.page("/ui/jobs/default/saves")
    assert "last checkpoint: step 700, 2m ago" in html
    assert "If it ended now, it would lose 2m of work, since the last checkpoint." in html
    assert "It loses 2m of work, since the last checkpoint." in browser.page("/ui/jobs/default/saves/delete")
    assert "would lose 5m of work, since its start" in browser.page("/ui/jobs/default/began")
    assert "would lose" not in browser.page("/ui/jobs/default/none")
    assert "It keeps no checkpoints: 5m of work are lost." in browser.page("/ui/jobs/default/none/delete")
    plant(served.store, [running("wide", replicas=4)])
    assert "5m of work are lost (0.3 GPU-hours)." in browser.page("/ui/jobs/default/wide/delete")


def test_what_users_held_and_used(browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(served.store, [node("gpu-1"), of(running("go"), "ann", 1001), of(active("go-a1-r0-d0"), "ann", 1001)])
    browser.sign_in()
    assert "Nobody held a share" in browser.page("/ui/users?days=x%3Cscript%3E")
    row = {
        "name": EVIL, "leases": 3, "heldGpuHours": 2.0, "usedGpuHours": 0.5, "idleGpuHours": 1.5,
        "unknownGpuHours": 0.0, "promises": 2, "promisesKept": 1,
    }  # fmt: skip
    report = {"whole": False, "rows": [row], "total": {**row, "name": ""}}
    held = {"start": 0, "step": 1000, "series": [{"name": str(n), "held": [0.0, n / 10]} for n in reversed(range(10))]}
    monkeypatch.setattr(History, "report", lambda self, identity, **asked: report)
    monkeypatch.setattr(History, "held_over_time", lambda self, identity, **asked: held)
    html = browser.page("/ui/users?days=30")
    assert "<script>alert" not in html
    for words in ("&lt;script&gt;alert", "all of them", "1 of 2", ">1.5<", "that you may read", ">ann<"):
        assert words in html, words
    drawn = browser.get("/ui/data/held?days=1").json
    assert [each["name"] for each in drawn["series"]] == list("98765432")
    assert (drawn["times"], drawn["left"]) == ([0, 1], 2)


def test_a_sparkline_has_gaps_where_nobody_knows() -> None:
    assert sparklines.path_of([0.0, 0.6, None, 2.0]) == "M0 100.0 L0.01 100.0 L1 50.0 M3 0.0 L3.01 0.0"
    lease: Any = {
        "attempt": 1, "replica": 0, "device": 2, "node": "n", "used": [0.5, None], "busy": [None, None],
    }  # fmt: skip
    (spark,) = sparklines.sparks_of(lease)
    assert (spark.what, spark.last, spark.highest, spark.width) == ("memory", None, 0.5, 1)


def test_what_was_is_not_needed_for_what_is(browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: History, identity: Identity, **asked: Any) -> Any:
        raise StoreUnavailable("the history cannot be read")

    monkeypatch.setattr(History, "report", broken)
    plant(served.store, [of(active("go-a1-r0-d0"), "ann", 1001)])
    browser.sign_in()
    html = browser.page("/ui/users")
    assert ">ann<" in html
    assert "the history cannot be read" in html
    monkeypatch.setattr(History, "timeline", broken)
    answer = browser.get("/ui/data/timeline?start=1&end=2&pixels=3")
    assert (answer.code, answer.json) == (503, {"problem": "the history cannot be read."})


def test_the_log_says_what_it_waits_for(browser: Browser, served: Served) -> None:
    plant(served.store, [job("wait")])
    browser.sign_in()
    with stream(browser, "/ui/jobs/default/wait/log/follow?follow=true") as events:
        assert [next(events), next(events)] == [
            ("reset", {}), ("state", {"text": "It has not started: Pending"}),
        ]  # fmt: skip


def test_what_a_job_uses_is_drawn_without_a_script(
    browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = {
        "attempt": 1, "replica": 0, "device": 2, "node": EVIL, "used": [0.5, 0.25], "busy": [0.1, 1.5],
    }  # fmt: skip
    monkeypatch.setattr(History, "job_use", lambda self, identity, key: {"now": 0, "leases": [lease]})
    plant(served.store, [running("go")])
    browser.sign_in()
    html = browser.page("/ui/jobs/default/go")
    assert html.count('<svg class="spark"') == 2
    assert "device 2 of &lt;/script&gt;" in html
    assert ">150%<" in html


def test_a_job_that_no_node_could_hold_is_not_said_to_be_next(browser: Browser, served: Served) -> None:
    never = of(job("never", gpu={"memory": "999Gi"}), Identity.of_this_process().name)
    never = served.store.create(never)
    plant(served.store, [node("gpu-1"), partition("never-a1-r0-d0", owner=never, memory="999Gi")])
    browser.sign_in()
    html = browser.page("/ui/queue")
    assert ("no ready node could hold it" in html, "You are next" in html) == (True, False), html


def test_my_jobs_come_first_of_those_that_wait_however_many_are_ahead(browser: Browser, served: Served) -> None:
    me = Identity.of_this_process().name
    theirs = [of(partition(f"p-{number:03}", memory="90%"), "ann") for number in range(105)]
    plant(served.store, [node("gpu-1"), *theirs, of(partition("z", memory="90%"), me)])
    browser.sign_in()
    html = browser.page("/ui/queue")
    mine, everybody = html.index("My jobs that wait"), html.index("Who waits")
    assert "105 jobs are ahead of yours." in html
    assert mine < html.index(">106<") < everybody < html.index(">1<", everybody) < html.index("default/p-000")
    assert "And 5 more." in html


def test_the_overview_lists_the_leases_that_end_first(browser: Browser, served: Served) -> None:
    held = [of(active(f"p-{number:02}"), "ann") for number in range(52)]
    for number, each in enumerate(held):
        each["status"]["expiresAt"] = ahead(minutes=100 - number)
    plant(served.store, [node("gpu-1"), *held])
    browser.sign_in()
    html = browser.page("/ui/")
    assert html.index("partition/p-51") < html.index("partition/p-02")
    assert "partition/p-01" not in html
    assert '<a href="/ui/queue">All 52 of them</a>' in html
    assert "default/p-00" in browser.page("/ui/queue")


def test_a_moment_in_a_sentence_is_worded_by_the_clock_of_who_looks(browser: Browser, served: Served) -> None:
    go = served.store.create(running("go"))
    plant(served.store, [active("go-a1-r0-d0", owner=go), node("gpu-1")])
    browser.sign_in()
    found = browser.page("/ui/jobs/default/go")
    assert re.search(r', at <time datetime="2030-[^"]+" data-form="at">2030-01-01 12:55:00 UTC</time>\.', found), found


def test_reservations_are_on_the_page_of_the_queue(browser: Browser, served: Served) -> None:
    held: Document = {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "Reservation", "metadata": {"name": "demo"},
        "spec": {"for": {"users": ["ann"]}},
        "status": {"start": ahead(hours=1), "end": ahead(hours=2), "devices": [{"node": "gpu-1", "device": 0}]},
    }  # fmt: skip
    damaged = {**held, "metadata": {"name": "bad"}, "status": {"start": "x", "end": "y"}}
    plant(served.store, [held, damaged])
    browser.sign_in()
    html = browser.page("/ui/queue")
    for words in (">demo<", ">ann<", "1 of gpu-1", "held in 1h", ">damaged<"):
        assert words in html, words
