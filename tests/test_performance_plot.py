"""The plot of docs/performance.md shows what the table says: `python -m benchmarks plot` draws it anew."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from benchmarks import plot, report
from benchmarks.__main__ import DOCS


def test_it_is_drawn_from_the_table_that_is_there() -> None:
    assert (DOCS / "performance.svg").read_text() == plot.draw(report.measured(DOCS))


def test_each_bar_says_what_it_shows_and_against_whom() -> None:
    table = report.measured(DOCS)
    found = list(plot.figures(table))
    assert len(found) == len(re.findall(r"at (?:least|most) [0-9.]+ \| ", table))
    assert all(" against " in figure.against and "goal at " in figure.against for figure in found)
    for figure in found:
        assert figure.met == (round(figure.factor, 2) >= 1)


def test_no_label_is_clipped() -> None:
    what = "a long name of what was measured, " * 8
    table = f"| {what.strip()} | 1 ms | 2 ms (a peer with a name) | 0.50 | at most 1 | met |"
    root = ElementTree.fromstring(plot.draw(table))
    texts = [(float(t.get("x", "")), float(t.get("y", "")), t.text or "") for t in root.findall(".//{*}text")]
    assert what.strip() in " ".join(text for _, _, text in texts)
    assert all(x + 6.9 * len(text) <= float(root.get("width", "")) for x, _, text in texts)
    assert max(y for _, y, _ in texts) <= float(root.get("height", ""))
    assert len({(x, y) for x, y, _ in texts}) == len(texts)
