"""`explain`, the schema behind it, and the registry's words."""

from __future__ import annotations

import pytest

from cumulus.errors import UsageError
from cumulus.resources.explain import explain
from cumulus.resources.registry import KINDS, find_kind
from cumulus.resources.schema import root


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_has_a_description_and_can_be_explained(kind: object) -> None:
    fields = dict(root(kind).walk())  # type: ignore[arg-type]
    assert len(fields) > 15
    for path, field in fields.items():
        assert field.description, path
        text = explain(f"{kind.name}.{path}")  # type: ignore[attr-defined]
        assert all(len(line) <= 80 for line in text.splitlines()), path


def test_a_kind() -> None:
    assert explain("jobs").splitlines()[:8] == [
        "KIND:       GPUJob",
        "VERSION:    cumulus.dev/v1alpha1",
        "NAMES:      gpujob, gpujobs, jobs, job, gj",
        "",
        "DESCRIPTION:",
        "    A program that runs inside leased shares of GPUs.",
        "",
        "FIELDS:",
    ]
    assert explain("gpujob") == explain("gpujobs") == explain("GPUJob.cumulus.dev")


def test_a_field_that_holds_others() -> None:
    assert explain("gpujob.spec.gpu") == (
        """\
KIND:       GPUJob
VERSION:    cumulus.dev/v1alpha1

FIELD:      gpu  <GPU> -required-

DESCRIPTION:
    The share of a GPU that each replica leases.

FIELDS:
  memory    <share> -required-
    Memory of each device: a fraction 0.5, a percentage 50% or a quantity 20Gi.
    for example: 0.5, 50%, 20Gi

  compute   <percentage>
    Compute of each device, as a percentage or fraction. If left out, the same
    share as of the memory.
    for example: 25%, 0.25

  count     <integer>
    Devices for each replica, all on one node. The replica leases this share of
    each.
    default: 1
    range: at least 1, at most 64

  duration  <duration> -required-
    How long the lease lasts, counted from the start of the program: 1h30m, or
    seconds. When it is over, the program is ended.
    for example: 1h30m, 90s

  selector  <DeviceSelector>
    Which devices fit.

  overuse   <string>
    What the node does if the program holds more GPU memory than it leases. End:
    kill it at once. Report: set the condition Overused. If left out: End for a
    part of a GPU, Report for a whole one. A node may be stricter.
    one of: Report, End

  renewal   <Renewal>
    Whether the lease is renewed before it ends; never, if left out. A gang ends
    with the first of its leases.

  sharing   <string>
    How it shares a GPU. Parkable: its memory is counted without MPS, so that
    the program can be parked; programs of several leases take turns on the
    device. Concurrent: with MPS, which runs them at once and holds each to its
    compute; such a program can't be parked. If left out: Concurrent.
    one of: Concurrent, Parkable
"""
    )


def test_choices_and_lists() -> None:
    assert "one of: none, guarded, hard\n    default: none" in explain("gpujob.spec.minEnforcement")
    assert "<[]Env>" in explain("gpujob.spec.env")
    assert "FIELD:      name  <string> -required-" in explain("gpujob.spec.env[0].name")
    assert "<map[string]string>" in explain("gpujob.metadata.labels")


def test_recursive() -> None:
    lines = explain("gpujob.spec.env", recursive=True).splitlines()
    assert lines[lines.index("FIELDS:") + 1 :] == [
        "  name       <string> -required-",
        "  value      <string>",
        "  valueFrom  <EnvSource>",
        "    secretKeyRef  <SecretKeyRef> -required-",
        "      name  <string> -required-",
        "      key   <string> -required-",
    ]


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("gpujob.spec.gpuu", "gpujob.spec has no field 'gpuu'", "did you mean gpujob.spec.gpu?"),
        ("job.spec.working_dir", "gpujob.spec has no field 'working_dir'", "did you mean gpujob.spec.workingDir?"),
        ("gpujob.duration", "gpujob has no field 'duration'", "did you mean gpujob.spec.gpu.duration?"),
        ("gpujob.spec.retry.zzz", "gpujob.spec.retry has no field 'zzz'", "its fields are limit, backoff"),
        ("gpujob.spec.priority.x", "gpujob.spec.priority has no field 'x'", "it holds integer, which has no fields"),
        ("gpujop", "there is no kind 'gpujop'", "did you mean gpujob?"),
        (
            "", "there is no kind ''",
            "the kinds are gpujobs, gpupartitions, gpunodes, events, leases, rolebindings, clusterrolebindings, "
            "sources, queues, gpucronjobs, queueusages, reservations, gpujobarrays",
        ),
    ],
)  # fmt: skip
def test_what_was_probably_meant(path: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        explain(path)
    assert (str(caught.value), caught.value.hint) == (message, hint)


def test_every_word_names_one_kind() -> None:
    words = [word for kind in KINDS for word in kind.words]
    assert len(words) == len(set(words))
    for kind in KINDS:
        assert all(find_kind(word) is kind for word in (*kind.words, kind.name, kind.qualified))


def test_every_column_s_path_is_a_field() -> None:
    for kind in KINDS:
        paths = dict(root(kind).walk())
        for column in kind.columns:
            assert column.path == "" or column.path in paths, (kind.name, column.title)
