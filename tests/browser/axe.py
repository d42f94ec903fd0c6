"""axe-core on a page: what keeps people with disabilities out."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page


@cache
def script() -> str:
    """axe-core. The package that brings it would inject it, which the page refuses."""
    return files("axe_playwright_python").joinpath("axe.min.js").read_text()


def violations(page: Page) -> list[str]:
    """One line for each rule and element, of what WCAG 2.2 AA and axe's best practices find."""
    # Evaluated, not injected: the page's Content-Security-Policy holds for its own scripts.
    page.evaluate(script())
    found: list[dict[str, Any]] = page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)"
    )
    return [
        f"{violation['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for violation in found
        for node in violation["nodes"]
    ]
