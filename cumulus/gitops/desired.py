"""Files of one revision -> the objects that should exist, or all that is wrong with them, by file, line and column."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from cumulus.gitops import leaks
from cumulus.gitops.variables import filled, parse
from cumulus.manifest import InvalidManifest, Manifest, Position, Problem, load_files
from cumulus.resources.key import Key
from cumulus.resources.source import MOST_OBJECTS, ON_CHANGE_ANNOTATION, RUN_ANNOTATION, OnChange

_FIX = (
    "looks like {what}; make it a secret (cumulus secret create), name it with valueFrom.secretKeyRef, and make a new "
    "one: whoever can read the source has this one"
)


@dataclass(frozen=True, slots=True)
class Desired:
    """What one revision says. `hashes`: a digest of what it says of each object."""

    manifests: Mapping[Key, Manifest]
    hashes: Mapping[Key, str]

    def __len__(self) -> int:
        return len(self.manifests)


NOTHING = Desired({}, {})


def desired(files: Mapping[str, bytes], namespace: str, variables: str = "") -> Desired:
    """The objects in the files. Those that name no namespace are in `namespace`; `variables` is the file, one of them,
    that has the variables. Raises InvalidManifest with every problem of every file."""
    problems: list[Problem] = []
    if variables:
        files = _filled(files, variables, problems)
    for name, data in sorted(files.items()):
        problems += [Problem(Position.at(name, data, at), "", _FIX.format(what=what)) for at, what in leaks.find(data)]
    found: list[Manifest] = []
    try:
        found = load_files(files, default_namespace=namespace)
    except InvalidManifest as error:
        problems += error.problems
    for manifest in found:
        problems += _unusable(manifest)
    if len(found) > MOST_OBJECTS:
        problems.append(Problem(Position("."), "", f"more than {MOST_OBJECTS:,} objects in one Source; split them"))
    if problems:
        raise InvalidManifest(sorted(problems))
    return Desired({m.key: m for m in found}, {m.key: digest(m) for m in found})


def _filled(files: Mapping[str, bytes], name: str, problems: list[Problem]) -> Mapping[str, bytes]:
    if name not in files:
        problems.append(Problem(Position(name), "", "there is no such file, which spec.variables names"))
        return {}
    values = parse(name, files[name], problems)
    return {file: filled(file, data, values, problems) for file, data in files.items() if file != name}


def digest(manifest: Manifest) -> str:
    """Changes with what is said of the object, but not with its labels, nor with annotations that run nothing."""
    body = {name: value for name, value in manifest.document.items() if name not in ("metadata", "apiVersion", "kind")}
    run = manifest.resource.metadata.annotations.get(RUN_ANNOTATION)
    return hashlib.sha256(orjson.dumps([body, run], option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def on_change(manifest: Manifest, default: OnChange) -> OnChange:
    """What becomes of the object where immutable fields of it change."""
    given = manifest.resource.metadata.annotations.get(ON_CHANGE_ANNOTATION)
    return OnChange(given) if given else default


def _unusable(manifest: Manifest) -> list[Problem]:
    given = manifest.resource.metadata.annotations.get(ON_CHANGE_ANNOTATION)
    if given is None or given in list(OnChange):
        return []
    path = ("metadata", "annotations", ON_CHANGE_ANNOTATION)
    return [manifest.problem(path, f"must be Recreate, Ignore or Fail, got {given[:40]!r}")]
