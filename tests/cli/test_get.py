from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from cumulus.cli import sorting
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import active, ago, event, failed, job, lease, node, partition, running
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("still")


@pytest.fixture
def filled(store: SqliteStore) -> SqliteStore:
    train = store.create(running("train", labels={"team": "vision"}, gpu={"memory": "40Gi"}))
    store.create(job("queued", gpu={"count": 2}, replicas=3, priority=5))
    store.create(failed("broken"))
    store.create(running("other", namespace="research", labels={"team": "audio"}))
    store.create(active("train-a1-r0-d0", owner=train))
    store.create(partition("mine", status={"phase": "Released", "node": "gpu-1", "expiresAt": ago(minutes=-5)}))
    store.create(node("gpu-1"))
    store.create(node("gpu-2", ready=False, unschedulable=True))
    store.create(event("e2", train, "Started", "attempt 1 runs on gpu-1", seconds=30))
    store.create(event("e1", train, "Queued", "waits", minutes=5))
    return store


@pytest.mark.usefixtures("served")
def test_jobs(filled: SqliteStore, run: Run) -> None:
    done = run("get", "jobs")
    assert done.code == 0
    assert done.out == (
        "NAME     PHASE     NODE    GPU               ATTEMPTS   AGE\n"
        "broken   Failed    gpu-1   50% for 1h        1          10m\n"
        "queued   Pending   -       3x2x 50% for 1h   0          10m\n"
        "train    Running   gpu-1   40Gi for 1h       1          10m\n"
    )
    assert done.err == ""


def test_wide_jobs_have_lease_and_reason(filled: SqliteStore, run: Run) -> None:
    lines = run("get", "jobs", "-o", "wide").out.splitlines()
    assert lines[0].split("   ")[0] == "NAME"
    assert "LEASE ENDS" in lines[0]
    assert "in 55m" in lines[3]
    assert "Started" in lines[3]
    assert "Error" in lines[1]


def test_partitions(filled: SqliteStore, run: Run) -> None:
    assert run("get", "parts").out == (
        "NAME             PHASE      NODE    DEVICE   MEMORY   ENFORCEMENT   ENDS IN   AGE\n"
        "mine             Released   gpu-1   -        -        -             ended     10m\n"
        "train-a1-r0-d0   Active     gpu-1   0        40Gi     guarded       55m       10m\n"
    )


def test_nodes(filled: SqliteStore, run: Run) -> None:
    assert run("get", "nodes").out == (
        "NAME    STATUS                        RUNTIMES   DEVICES        FREE       AGE\n"
        "gpu-1   Ready                         process    1x H100 80Gi   40Gi 50%   10m\n"
        "gpu-2   NotReady,SchedulingDisabled   process    1x H100 80Gi   40Gi 50%   10m\n"
    )


def test_events_are_in_the_order_in_which_they_were_seen(filled: SqliteStore, run: Run) -> None:
    assert run("get", "events").out == (
        "LAST SEEN   TYPE     REASON    OBJECT         MESSAGE\n"
        "5m          Normal   Queued    gpujob/train   waits\n"
        "30s         Normal   Started   gpujob/train   attempt 1 runs on gpu-1\n"
    )


def test_several_kinds_at_once(filled: SqliteStore, run: Run) -> None:
    lines = run("get", "jobs,parts").out.splitlines()
    assert lines[1].startswith("gpujob/broken ")
    assert lines[4] == ""
    assert lines[6].startswith("gpupartition/mine ")
    everything = run("get", "all", "-A").out
    assert "gpunode/" not in everything
    assert run("get", "all,jobs,nodes", "-A").out.startswith(everything)
    assert "research    gpujob/other" in everything


def test_names_and_slashes(filled: SqliteStore, run: Run) -> None:
    assert run("get", "job", "train", "broken", "-o", "name").out == (
        "gpujob.cumulus.dev/train\ngpujob.cumulus.dev/broken\n"
    )
    assert run("get", "gj/train", "node/gpu-1", "-o", "name").out == (
        "gpujob.cumulus.dev/train\ngpunode.cumulus.dev/gpu-1\n"
    )


def test_selectors_and_namespaces(filled: SqliteStore, run: Run) -> None:
    assert run("get", "jobs", "-l", "team in (vision,audio)", "-o", "name").out == "gpujob.cumulus.dev/train\n"
    assert "other" in run("get", "jobs", "-l", "team", "-A").out
    assert run("get", "jobs", "-n", "research", "-o", "name").out == "gpujob.cumulus.dev/other\n"
    assert run("get", "jobs", "--field-selector", "status.phase=Failed", "-o", "name").out == (
        "gpujob.cumulus.dev/broken\n"
    )


def test_labels_and_headings(filled: SqliteStore, run: Run) -> None:
    done = run("get", "jobs", "--show-labels", "--no-headers", "-l", "team=vision")
    assert done.out == "train   Running   gpu-1   40Gi for 1h   1   10m   team=vision\n"


def test_sorting(filled: SqliteStore, run: Run) -> None:
    names = run("get", "jobs", "--sort-by=.spec.priority", "-o", "name").out.split()
    assert names[-1] == "gpujob.cumulus.dev/queued"
    by_phase = run("get", "jobs", "--sort-by={.status.phase}", "-o", "custom-columns=N:.metadata.name", "--no-headers")
    assert by_phase.out.split() == ["broken", "queued", "train"]


def test_custom_columns(filled: SqliteStore, run: Run) -> None:
    spec = "custom-columns=NAME:.metadata.name,DEVICES:.status.devices[*].name,TEAM:.metadata.labels.team"
    assert run("get", "nodes", "-o", spec).out == ("NAME    DEVICES   TEAM\ngpu-1   H100      -\ngpu-2   H100      -\n")


def test_one_object_is_itself_and_several_are_a_list(filled: SqliteStore, run: Run) -> None:
    one = json.loads(run("get", "job", "train", "-o", "json").out)
    assert one["kind"] == "GPUJob"
    several = json.loads(run("get", "jobs", "-o", "json").out)
    assert (several["apiVersion"], several["kind"]) == ("v1", "List")
    assert [item["metadata"]["name"] for item in several["items"]] == ["broken", "queued", "train"]
    assert yaml.safe_load(run("get", "jobs", "-o", "yaml").out) == several
    assert json.loads(run("get", "jobs", "-n", "nowhere", "-o", "json").out)["items"] == []


def test_jsonpath(filled: SqliteStore, run: Run) -> None:
    assert run("get", "job", "train", "-o", "jsonpath={.status.phase}").out == "Running"
    template = 'jsonpath={range .items[*]}{.metadata.name}{"\\n"}{end}'
    assert run("get", "jobs", "-o", template).out == "broken\nqueued\ntrain\n"


@pytest.mark.usefixtures("served")
def test_what_is_not_there(filled: SqliteStore, run: Run) -> None:
    done = run("get", "job", "train", "nope", "-o", "name")
    assert done.code == 1
    assert done.out == "gpujob.cumulus.dev/train\n"
    assert done.err == "error: gpujob.cumulus.dev 'nope' not found in namespace default\n"
    assert run("get", "jobs", "-n", "empty") == (0, "", "No gpujobs found in empty namespace.\n")
    assert run("get", "node", "nope").err == "error: gpunode.cumulus.dev 'nope' not found\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["jbos"], "there is no kind 'jbos'; did you mean jobs?"),
        ([], "name a kind, or KIND/NAME"),
        (["jobs", "-o", "yml"], "there is no output format 'yml'"),
        (["jobs", "-o", "jsonpath={.a"], "jsonpath '{.a'"),
        (["jobs", "-o", "custom-columns=a"], "'a' is not a custom column"),
        (["jobs", "-l", "a in b"], "a in b"),
        (["jobs,nodes", "a"], "names cannot follow several kinds"),
        (["secrets"], "there is no kind 'secrets'; secrets are kept apart from objects: see `cumulus secret --help`"),
        (["pods"], "there is no kind 'pods'; what runs is a job: see `cumulus get jobs`"),
        (["things"], "there is no kind 'things'; the kinds are gpujobs,"),
        (["job/a", "b"], "'b' is not KIND/NAME"),
        (["job/"], "'' is not a name"),
        (["jobs", "--nope"], "no such option: --nope"),
        (["job", "train", "-l", "a=b"], "a name and a selector cannot be given together"),
        (["job", "train", "-l", "a=b", "-w"], "a name and a selector cannot be given together"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    filled: SqliteStore, run: Run, arguments: list[str], problem: str
) -> None:
    done = run("get", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert problem in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["jobs", "--field-selector=status.phse!=Running"],
            "a GPUJob has no field status.phse; did you mean status.phase?",
        ),
        (["jobs", "--field-selector=status.phse!=Running", "-w"], "did you mean status.phase?"),
        (["jobs,nodes", "--field-selector=status.phase=Failed"], "a GPUNode has no field status.phase"),
        (["jobs", "--sort-by=.spec.prioritiy"], "a GPUJob has no field spec.prioritiy; did you mean spec.priority?"),
        (["jobs", "-o", "custom-columns=N:.metadata.name,P:.status.phse"], "did you mean status.phase?"),
        (["nodes", "-o", "custom-columns=G:.status.devices.name"], "is a list; its values are status.devices[*].name"),
        (["jobs", "-o", "custom-columns=G:.spec.priority[*]"], "spec.priority of a GPUJob is one value, not a list"),
        (["jobs", "-o", 'custom-columns=M:.status.conditions[?(@.typ=="Running")].message'], "conditions[*].type?"),
        (["jobs,parts", "-o", "custom-columns=X:.spec.nowhere"], "a GPUJob has no field spec.nowhere"),
        (["jobs", "-o", "custom-columns=X:.items[*].metadata.name"], "a GPUJob has no field items"),
        (["events", "-o", "custom-columns=X:.involvedObject.nam"], "did you mean involvedObject.name?"),
    ],
)
def test_a_field_that_is_not_there_is_an_error_with_a_suggestion(
    filled: SqliteStore, run: Run, arguments: list[str], problem: str
) -> None:
    done = run("get", *arguments)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err
    assert done.err.count("\n") == 1


def test_fields_of_free_maps_of_lists_and_of_one_of_several_kinds_are_not_refused(
    filled: SqliteStore, run: Run
) -> None:
    for path in (
        ".metadata.labels.team", ".metadata.labels['a.b/c']", ".metadata.annotations.any\\.thing", "..name",
        ".spec.gpu.selector.nodeLabels.rack", ".status.attempts[-1].message", ".status.attempts[0:2].exitCode",
        '.status.conditions[?(@.type=="Running")].message', ".status.*", ".spec.env[*]['name','value']", ".",
    ):  # fmt: skip
        assert run("get", "jobs", "-o", f"custom-columns=X:{path}").code == 0, path
    assert run("get", "jobs,nodes", "-o", "custom-columns=P:.status.phase,H:.status.hostname").code == 0
    assert run("get", "jobs,nodes", "--sort-by=.status.hostname").code == 0


def test_a_home_that_is_not_there_is_not_made(home: Path, run: Run) -> None:
    done = run("get", "jobs")
    assert done.code == 0
    assert f"There is no store in {home} yet" in done.err
    assert not home.exists()


def test_odd_objects_are_shown_all_the_same(store: SqliteStore, run: Run) -> None:
    store.create({**job("odd"), "status": {"phase": 7, "attempts": "none", "conditions": [1]}})
    assert run("get", "jobs", "-o", "wide").out.splitlines()[1].startswith("odd")


def test_a_watch_of_a_name_that_is_not_there_is_an_error(store: SqliteStore, run: Run) -> None:
    store.create(running("train"))
    done = run("get", "job", "train", "nosuch", "-w")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: gpujob.cumulus.dev 'nosuch' not found in namespace default\n"


@pytest.mark.parametrize("verb", [["get", "jobs,nodes"], ["get", "jobs", "-o", "json"], ["describe", "job", "train"]])
def test_no_daemon_is_told_once(filled: SqliteStore, run: Run, home: Path, verb: list[str]) -> None:
    assert run(*verb).err == f"No daemon has ever run on {home}; things happen once `cumulus serve` is started.\n"
    filled.create(lease(ago(hours=3, minutes=5), holder=""))
    assert run(*verb).err == f"No daemon runs on {home}: what is shown is as the last one left it, 3h5m ago.\n"
    assert run("get", "jobs", "-n", "empty").err == "No gpujobs found in empty namespace.\n"
    assert run("get", "events").err == ""


@pytest.mark.usefixtures("served")
def test_a_daemon_that_does_not_renew_its_lead_is_told(filled: SqliteStore, run: Run, home: Path) -> None:
    assert run("get", "nodes").err == ""
    renewed = filled.create(lease(ago(seconds=14)))
    assert run("get", "nodes").err == ""
    filled.update({**renewed, "spec": {**renewed["spec"], "renewTime": ago(seconds=40)}})
    assert run("get", "nodes").err == (
        f"The daemon on {home} has not renewed its lead for 40s: what is shown may be that old; see `cumulus doctor`.\n"
    )


def test_control_characters_do_not_reach_the_terminal(store: SqliteStore, run: Run) -> None:
    about = store.create(job("x"))
    store.create(event("e", about, "Said", "red \x1b[31m and\nanother line"))
    out = run("get", "events").out
    assert "\x1b" not in out
    assert out.count("\n") == 2


@pytest.mark.parametrize("form", ["", "json"])
def test_a_watch_goes_on_from_the_list(home: Path, store: SqliteStore, form: str) -> None:
    store.create(job("first", labels={"a": "b"}))
    command = [sys.executable, "-m", "cumulus.cli.main", "get", "jobs", "-w", "-l", "a=b", "--no-headers"]
    with subprocess.Popen([*command, *(["-o", form] if form else [])], stdout=subprocess.PIPE, text=True) as watcher:
        try:
            assert watcher.stdout is not None
            lines: list[str] = []
            reader = threading.Thread(target=lambda: lines.extend(iter(watcher.stdout.readline, "")), daemon=True)  # type: ignore[union-attr]
            reader.start()
            eventually(lambda: any("first" in line for line in lines))
            store.create(job("unlabelled"))
            changed = store.create(job("second", labels={"a": "b"}))
            store.update_status({**changed, "status": {"phase": "Running"}})
            eventually(lambda: any("Running" in line for line in lines))
            text = "".join(lines)
            assert "unlabelled" not in text
            assert text.index("first") < text.index("second") < text.index("Running")
            watcher.send_signal(2)
            assert watcher.wait(PATIENCE) == 130
        finally:
            watcher.kill()


def test_sorting_mixed_values_has_an_order() -> None:
    values = ("b", 3, None, 1.5, True)
    ranks = dict(zip(values, sorting.ranks([[value] for value in values]), strict=True))
    assert sorted(values, key=ranks.__getitem__) == [True, 1.5, 3, None, "b"]


@pytest.mark.parametrize(
    "in_order",
    [
        ["500Mi", "2Gi", "1Ti"],
        ["90s", "30m", "1h", "1h30m", "2d"],
        ["250m", "0.5", "2"],
        ["5%", "0.25", "50%"],
        ["9", "10"],
        ["10 Gi", "2Gi"],
    ],
)
def test_sorting_by_a_measure_goes_by_its_size(in_order: list[str]) -> None:
    for texts in (in_order, in_order[::-1]):
        ranks = sorting.ranks([[text] for text in texts])
        assert [text for _, text in sorted(zip(ranks, texts, strict=True))] == in_order
