"""Templates to HTML. All that is put into one is escaped, and what would reorder or hide text is shown, not obeyed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cumulus.clock import parse_timestamp, short_timestamp
from cumulus.lib import printable
from cumulus.resources.quantity import format_bytes, format_duration
from cumulus.server.http.ui import static_files

_Form = Literal["ago", "in", "at"]
"""How a script words a time: as the time since, the time left, or as a moment."""
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)")


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_harmless, auto_reload=False,
    )  # fmt: skip
    made.globals |= {"static": static_files.address, "job_url": job_url, "node_url": node_url}
    made.filters |= {
        "time": time, "moments": moments, "block": block, "bytes": format_bytes,
        "duration": format_duration, "percent": percent,
    }  # fmt: skip
    return made


def render(template: str, **context: Any) -> str:
    return environment().get_template(template).render(context)


def job_url(namespace: str, name: str, *more: str) -> str:
    return "/".join(["/ui/jobs", *(quote(part, safe="") for part in (namespace, name, *more))])


def share_url(name: str) -> str:
    """Of the job NAMESPACE/NAME that has a share; "" for a lease that is no job's."""
    namespace, slash, job = name.partition("/")
    return job_url(namespace, job) if slash and " " not in name and "/" not in job else ""


def node_url(name: str) -> str:
    return f"/ui/nodes/{quote(name, safe='')}"


def time(text: str | None, form: _Form = "ago") -> Markup:
    """A moment of an object, in UTC where no script words it. What is no time is shown as it is."""
    if not text:
        return Markup()
    try:
        moment = short_timestamp(parse_timestamp(text))
    except (ValueError, OverflowError):
        return escape(printable.one_line(text))
    shown = f"{moment[:10]} {moment[11:19]} UTC"
    return Markup('<time datetime="{}" data-form="{}">{}</time>').format(moment, form, shown)


def moments(text: str | None) -> Markup:
    """A sentence with the moments in it, which a script words by the clock of who looks."""
    pieces = _MOMENT.split(printable.one_line(text or ""))
    return Markup("").join(time(piece, "at") if at % 2 else escape(piece) for at, piece in enumerate(pieces))


def block(text: str) -> Markup:
    """Text of several lines."""
    return escape(printable.block(text))


def percent(part: float | None) -> str:
    """0.5: 50%."""
    return "" if part is None else f"{round(100 * part)}%"


def _harmless(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable.one_line(value)
