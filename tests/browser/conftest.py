"""One browser for all tests here, which run in one process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import MISSING, chromium, watched_context
from tests.conftest import within

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if within(item, HERE):
            item.add_marker(pytest.mark.xdist_group("browser"))
            # A busy machine's browser is slow: an end for what hangs, and no measure of anything.
            item.add_marker(pytest.mark.timeout(1800))
            if MISSING:
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


Opens = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opens]:
    """Opens an address in a context of its own. What went wrong there, `page.watched`, fails the test at its end.
    `first`: a script that runs in each page before all others."""
    with ExitStack() as stack:

        def opened(url: str, *, first: str = "", **options: Any) -> Page:
            context, watched = stack.enter_context(watched_context(browser, **options))
            if first:
                context.add_init_script(first)
            page = context.new_page()
            page.watched = watched  # type: ignore[attr-defined]
            page.goto(url)
            return page

        yield opened
