"""Objects -> YAML text that `load` reads back as the same objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from cumulus.lib import printable
from cumulus.manifest.yaml_nodes import resolve


def dump(value: Any) -> str:
    """One YAML document: block style, keys in their order, long text as a literal block."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return printable.yaml_text(text)


def dump_all(values: Iterable[Any]) -> str:
    """Several documents with `---` between them."""
    return "---\n".join(dump(value) for value in values)


class _Dumper(yaml.SafeDumper):
    """Writes values that occur twice twice, and quotes all text that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if printable.hidden(text):
        style = '"'
    elif "\n" in text:
        style = "|"
    else:
        try:
            quoted = not isinstance(resolve(text), str)
        except ValueError:
            quoted = True
        style = "'" if quoted else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
