"""YAML in, models out; every problem with file:line:column; and YAML out again.

`load` is the way in for whatever people write: text -> nodes with positions (`yaml_nodes`) -> checked objects
(`check`, with the words of `messages`) -> `cumulus.apply`. No other package imports yaml.
"""

from cumulus.manifest.check import Manifest, from_documents, placed
from cumulus.manifest.dump import dump, dump_all
from cumulus.manifest.load import load, load_files, load_text, plain_value
from cumulus.manifest.problem import InvalidManifest, Position, Problem
from cumulus.resources.key import DEFAULT_NAMESPACE

__all__ = [
    "DEFAULT_NAMESPACE", "InvalidManifest", "Manifest", "Position", "Problem", "dump", "dump_all", "from_documents",
    "load", "load_files", "load_text", "placed", "plain_value",
]  # fmt: skip
