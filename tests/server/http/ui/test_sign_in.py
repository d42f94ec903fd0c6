"""Who gets in, how long, and what keeps strangers out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.resources.key import Key
from cumulus.service.sessions import SECONDS
from tests.documents import job
from tests.server.http.conftest import Served
from tests.server.http.ui.conftest import Browser

PAGES = (
    "/ui/", "/ui/jobs", "/ui/queue", "/ui/nodes", "/ui/users", "/ui/jobs/default/train", "/ui/no/such", "/ui/changes",
)  # fmt: skip
FORGED = "https://evil.example/", "//evil.example/ui/", "/ui/\\evil", "javascript:x", "/api"
STRANGE = "evil.example", "evil.example:6443", "localhost.evil.example", "127.0.0.1.evil.example", ""


def link(served: Served) -> str:
    return str(served.ask("POST", "/cumulus/v1/page_link", {}).json["value"]["code"])


def test_nobody_sees_anything_before_signing_in(browser: Browser, served: Served) -> None:
    served.store.create(job("train"))
    for url in PAGES:
        answer = browser.get(url, follow=False)
        assert (answer.code, answer.headers["location"].partition("?")[0]) == (303, "/ui/sign-in"), url
        assert b"train" not in browser.get(url).body.replace(b"/ui/jobs/default/train", b"")
        assert browser.get(url, hx_request="true", follow=False).headers["hx-refresh"] == "true"
    assert browser.send("/ui/jobs/default/train/delete", csrf=False).code == 303
    assert served.store.get(Key("GPUJob", "default", "train"))


def test_a_link_signs_in_once(browser: Browser, served: Served) -> None:
    code = link(served)
    assert browser.get(f"/ui/enter?code={code}", site="none").code == 200
    assert "Sign out" in browser.page("/ui/")
    again = Browser(served).get(f"/ui/enter?code={code}", site="none")
    assert (again.code, b"opened already" in again.body) == (401, True)


def test_a_link_ends_soon(browser: Browser, served: Served) -> None:
    code = link(served)
    served.clock.advance(121)
    assert browser.get(f"/ui/enter?code={code}", site="none").code == 401


@pytest.mark.parametrize("headers", [{"site": "cross-site"}, {"site": "none", "sec_purpose": "prefetch"}])
def test_a_link_that_another_site_leads_to_asks_first(
    browser: Browser, served: Served, headers: dict[str, str]
) -> None:
    code = link(served)
    answer = browser.get(f"/ui/enter?code={code}", **headers)
    assert (answer.code, browser.cookies) == (200, {})
    assert f"Sign in as {served.asks.name}" in answer.body.decode()
    assert browser.send("/ui/enter", csrf=False, code=code).headers["location"] == "/ui/"
    assert "Sign out" in browser.page("/ui/")


def test_a_link_from_elsewhere_leads_to_the_page_of_who_is_signed_in(browser: Browser) -> None:
    """A browser leaves the cookie out then, and shows it when our own page asks again."""
    browser.sign_in()
    kept, browser.cookies = browser.cookies, {}
    answer = browser.get("/ui/jobs?q=a%20b", site="cross-site")
    assert b'http-equiv="refresh" content="0;url=/ui/jobs?q=a%20b"' in answer.body
    browser.cookies = kept
    assert "Sign out" in browser.page("/ui/jobs?q=a%20b")


def test_the_cookie_is_shown_to_nobody_else(browser: Browser, served: Served) -> None:
    answer = browser.get(f"/ui/enter?code={link(served)}", site="none", follow=False)
    header = answer.headers["set-cookie"].lower()
    assert "httponly" in header
    assert "samesite=strict" in header
    assert "path=/ui" in header
    (secret,) = browser.cookies.values()
    kept = [path.read_text() for path in (served.path.parent / "home/api/sessions").iterdir()]
    assert len(kept) == 1
    assert secret not in kept[0]


def test_a_token_signs_in_and_its_end_ends_the_session(browser: Browser, served: Served) -> None:
    made = served.ask("POST", "/cumulus/v1/create_token", {"name": "laptop"}).json["value"]["token"]
    refused = browser.send("/ui/sign-in", csrf=False, token="cumulus_" + "x" * 43)
    assert (refused.code, b"not valid" in refused.body) == (401, True)
    assert (
        browser.send("/ui/sign-in", csrf=False, token=f" {made} ", next="/ui/queue").headers["location"] == "/ui/queue"
    )
    assert "Sign out" in browser.page("/ui/")
    served.ask("POST", "/cumulus/v1/revoke_token", {"name": "laptop"})
    assert browser.get("/ui/", follow=False).code == 303


def test_sign_in_leads_nowhere_else(browser: Browser, served: Served) -> None:
    made = served.ask("POST", "/cumulus/v1/create_token", {"name": "laptop"}).json["value"]["token"]
    for onwards in FORGED:
        assert browser.send("/ui/sign-in", csrf=False, token=made, next=onwards).headers["location"] == "/ui/", onwards


def test_a_session_ends_by_itself(browser: Browser, served: Served) -> None:
    browser.sign_in()
    served.clock.advance(SECONDS - 1)
    assert browser.get("/ui/", follow=False).code == 200
    served.clock.advance(1)
    assert browser.get("/ui/", follow=False).code == 303


def test_signing_out_ends_one_session_or_all(browser: Browser, served: Served) -> None:
    browser.sign_in()
    other, third = Browser(served), Browser(served)
    other.sign_in()
    third.sign_in()
    kept = dict(browser.cookies)
    assert browser.send("/ui/sign-out").headers["location"] == "/ui/sign-in"
    assert browser.cookies == {}
    browser.cookies = kept
    assert browser.get("/ui/", follow=False).code == 303, "the server forgot it, not the browser alone"
    assert other.get("/ui/", follow=False).code == 200
    other.send("/ui/sign-out", everywhere="1")
    assert third.get("/ui/", follow=False).code == 303


def test_too_many_wrong_tokens_are_refused(browser: Browser) -> None:
    codes = [browser.send("/ui/sign-in", csrf=False, token="cumulus_wrong").code for _ in range(25)]
    assert codes[0] == 401
    assert codes[-1] == 429


def test_a_name_that_is_not_ours_is_refused(browser: Browser) -> None:
    """Any name may be made to lead to this machine."""
    browser.sign_in()
    for host in STRANGE:
        answer = browser.get("/ui/", host=host)
        assert (answer.code, b"Sign out" in answer.body) == (403, False), host


def test_addresses_and_this_machine_are_ours(browser: Browser) -> None:
    for host in ("127.0.0.1:8265", "[::1]:8265", "localhost:1", "cumulus.localhost", "10.1.2.3"):
        assert browser.get("/ui/sign-in", host=host).code == 200, host


def test_a_form_of_another_page_changes_nothing(browser: Browser, served: Served) -> None:
    served.store.create(job("train"))
    browser.sign_in()
    for origin in ("", "null", "http://evil.example", "https://localhost", "http://localhost:8080"):
        assert browser.send("/ui/jobs/default/train/suspend", origin=origin).code == 403, origin
        assert browser.send("/ui/sign-in", origin=origin, csrf=False, token="x").code == 403, origin


def test_a_form_without_what_our_pages_hide_in_it_changes_nothing(browser: Browser, served: Served) -> None:
    served.store.create(job("train"))
    browser.sign_in()
    for csrf in (None, "", "0" * 64, "é"):
        fields = {} if csrf is None else {"csrf": csrf}
        assert browser.post("/ui/jobs/default/train/suspend", fields).code == 403, csrf
        assert browser.post("/ui/sign-out", fields).code == 403, csrf
    assert not served.store.get(Key("GPUJob", "default", "train"))["spec"].get("suspend")


def test_nothing_of_ours_is_loaded_by_another_page(browser: Browser) -> None:
    browser.sign_in()
    answer = browser.get("/ui/jobs", site="cross-site", sec_fetch_mode="no-cors")
    assert answer.code == 403


def test_every_answer_says_what_a_page_may_do(browser: Browser) -> None:
    for url in ("/ui/sign-in", "/ui/no/such", "/ui/static/page.js", "/ui/enter?code=x"):
        headers = browser.get(url).headers
        assert headers["content-security-policy"].startswith("default-src 'self';"), url
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"]


def test_sessions_of_one_user_are_bounded(browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulus.service.sessions.MOST", 2)
    first, second, third = (Browser(served) for _ in range(3))
    for each in (first, second, third):
        each.sign_in()
        served.clock.advance(1)
    assert [each.get("/ui/", follow=False).code for each in (first, second, third)] == [303, 200, 200]


def test_a_damaged_session_opens_nothing(browser: Browser, served: Served) -> None:
    browser.sign_in()
    for path in Path(served.path.parent, "home/api/sessions").iterdir():
        path.write_text("{")
    assert browser.get("/ui/", follow=False).code == 303
