"""`cumulus serve --system` with two Unix users: each runs jobs, and none reads, ends, impersonates or gets round the
other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.backends.process.test_users import ATTACKS
from tests.e2e.test_readme import commands, manifest
from tests.system_daemon import GROUP, PYTHON, ROOT, SITE, SystemDaemon, is_like_ours, job, jobs, system_daemon
from tests.unix_users import User, open_directory
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.users, pytest.mark.daemon, pytest.mark.xdist_group("system-daemon")]

STATE = "/var/lib/cumulus"
PUBLIC = ("node-name.here", "place.json", "limits")
"""What all may read: the names of the node and of the state directory, a lease's size and end."""


@pytest.fixture(scope="module")
def daemon(users: tuple[User, User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemDaemon]:
    with system_daemon(tmp_path_factory.mktemp("system") / "serve.log") as made:
        yield made


def found(daemon: SystemDaemon, user: User | None, namespace: str, name: str) -> dict[str, Any]:
    answer = daemon.ask(user, "GET", jobs(namespace, name))
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.body
    return body


def until(daemon: SystemDaemon, user: User, name: str, phase: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def reached() -> bool:
        seen.update(found(daemon, user, user.name, name))
        return bool(seen["status"].get("phase") == phase)

    eventually(reached, what=lambda: f"{seen.get('status')}\n{daemon.written()}")
    return seen


def started(daemon: SystemDaemon, user: User, name: str, *command: str, **spec: Any) -> dict[str, Any]:
    answer = daemon.ask(user, "POST", jobs(user.name), job(name, *command, **spec))
    assert answer.status == 201, answer
    return until(daemon, user, name, "Running")


def directory(daemon: SystemDaemon, user: User, of: dict[str, Any]) -> Path:
    """The working directory of its first attempt, as root sees it."""
    return daemon.seen / f"{STATE[1:]}/process/users/{user.uid}/{of['metadata']['uid']}/a1-r0/work"


def pids(daemon: SystemDaemon, user: User, of: dict[str, Any]) -> tuple[int, int]:
    """Of the supervisor and the program, as they see themselves."""
    work = directory(daemon, user, of)
    eventually((work / "pids").exists)
    supervisor, program = (work / "pids").read_text().split()
    return int(supervisor), int(program)


HOLD = ("sh", "-c", "echo private > private; echo $PPID $$ > new; mv new pids; exec sleep 300")


def test_each_runs_jobs_as_themselves_with_no_set_up(daemon: SystemDaemon, users: tuple[User, User]) -> None:
    for user in users:
        script = f"id -u > {user.home}/result; echo $HOME $PATH >> {user.home}/result"
        answer = daemon.ask(user, "POST", jobs(user.name), job("whoami", "sh", "-c", script))
        assert answer.status == 201, answer
        annotations = answer.body["metadata"]["annotations"]
        assert annotations["cumulus.dev/submitter"] == user.name
        assert annotations["cumulus.dev/submitter-uid"] == str(user.uid)
        until(daemon, user, "whoami", "Succeeded")
        uid, rest = (user.home / "result").read_text().split("\n")[:2]
        assert (int(uid), rest.split()[0]) == (user.uid, str(user.home))
        assert (user.home / "result").stat().st_uid == user.uid


def test_none_reads_ends_changes_or_impersonates_the_others(daemon: SystemDaemon, users: tuple[User, User]) -> None:
    one, other = users
    theirs = started(daemon, other, "theirs", *HOLD, env=[{"name": "PASSWORD", "value": "hush"}])
    for verb, path, body in (
        ("GET", jobs(other.name, "theirs"), None),
        ("GET", jobs(other.name), None),
        ("GET", f"{GROUP}/gpujobs", None),
        ("GET", f"{jobs(other.name)}?watch=true", None),
        ("DELETE", jobs(other.name, "theirs"), None),
        ("DELETE", jobs(other.name), None),
        ("PUT", jobs(other.name, "theirs"), theirs | {"spec": theirs["spec"] | {"suspend": True}}),
        ("POST", jobs(other.name), job("mine", "true")),
        ("POST", jobs("default"), job("mine", "true")),
        ("POST", f"{GROUP}/namespaces/{other.name}/rolebindings", grant(other.name, one.name)),
    ):
        answer = daemon.ask(one, verb, path, body)
        assert answer.status == 403, (verb, path, answer)
        assert "hush" not in str(answer)
    # Who submitted it is what the kernel says, whatever the object says.
    forged = job("forged", "sh", "-c", f"id -u > {one.home}/forged")
    forged["metadata"]["annotations"] = {
        "cumulus.dev/submitter": "root", "cumulus.dev/submitter-uid": "0", "cumulus.dev/submitter-admin": "true",
    }  # fmt: skip
    answer = daemon.ask(one, "POST", jobs(one.name), forged)
    if answer.status == 201:
        assert answer.body["metadata"]["annotations"]["cumulus.dev/submitter-uid"] == str(one.uid)
        until(daemon, one, "forged", "Succeeded")
        assert (one.home / "forged").read_text().strip() == str(one.uid)
    else:
        assert answer.status in (403, 422), answer
    assert found(daemon, other, other.name, "theirs")["status"]["phase"] == "Running"
    assert daemon.ask(other, "DELETE", jobs(other.name, "theirs")).status == 200
    work = directory(daemon, other, theirs)
    eventually(lambda: not work.exists(), what=daemon.written)


def grant(namespace: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "RoleBinding",
        "metadata": {"name": "mine", "namespace": namespace},
        "roleRef": {"apiGroup": "cumulus.dev", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": name}],
    }  # fmt: skip


def test_a_job_reaches_neither_the_state_nor_a_supervisor_nor_the_other(
    daemon: SystemDaemon, users: tuple[User, User]
) -> None:
    one, other = users
    theirs = started(daemon, other, "target", *HOLD)
    supervisor, program = pids(daemon, other, theirs)
    assert daemon.run(None, "stat", "-c", "%u", f"/proc/{supervisor}", f"/proc/{program}").stdout == f"0\n{other.uid}\n"
    paths = sorted(
        f"/{path.relative_to(daemon.seen)}"
        for top in (STATE, "/var/lib/chronos")
        for path in (daemon.seen / top[1:]).rglob("*")
        if path.name not in PUBLIC and f"/users/{one.uid}" not in str(path)
    )
    work = f"{STATE}/process/users/{other.uid}/{theirs['metadata']['uid']}/a1-r0/work"
    assert f"{work}/private" in paths
    script = f'exec {PYTHON} -c "$@" > {one.home}/attack 2>&1'
    attack = job("attack", "sh", "-c", script, "sh", ATTACKS, f"1,{supervisor},{program}", *paths)
    answer = daemon.ask(one, "POST", jobs(one.name), attack)
    assert answer.status == 201, answer
    until(daemon, one, "attack", "Succeeded")
    assert (one.home / "attack").read_text() == "tried\n"
    assert found(daemon, other, other.name, "target")["status"]["phase"] == "Running"
    # As a mount and as a working directory.
    places: list[dict[str, Any]] = [{"workingDir": work}, {"mounts": [{"source": work, "target": "data"}]}]
    for number, spec in enumerate(places):
        answer = daemon.ask(one, "POST", jobs(one.name), job(f"by{number}", "cat", "data/private", "private", **spec))
        assert answer.status == 201, answer
        assert "private" not in until(daemon, one, f"by{number}", "Failed")["status"]["attempts"][0]["message"].split()


def test_what_runs_as_root_or_reaches_the_machine_needs_an_admin(
    daemon: SystemDaemon, users: tuple[User, User]
) -> None:
    one = users[0]
    for spec in ({"image": "x", "runAsUser": 0}, {"image": "x", "mounts": [{"source": "/etc", "target": "/e"}]}):
        answer = daemon.ask(one, "POST", jobs(one.name), job("container", "true", **spec))
        assert answer.status == 403, answer
    # Root's own.
    answer = daemon.ask(None, "POST", jobs("default"), job("roots", "sh", "-c", f"id -u > {one.home}/roots"))
    assert answer.status == 201, answer
    eventually(lambda: found(daemon, None, "default", "roots")["status"]["phase"] == "Succeeded", what=daemon.written)
    assert (one.home / "roots").read_text().strip() == "0"


@pytest.fixture(scope="module")
def server(daemon: SystemDaemon, users: tuple[User, User]) -> Iterator[None]:
    """Answers chronos_cli of users. Only the first may make leases."""
    command = (sys.executable, "-m", "cumulus.chronos", "serve-users", "--may-create", users[0].name)
    with daemon.running(*command):
        eventually((daemon.seen / "run/chronos/users.sock").is_socket, what=daemon.written)
        yield


CALL = """
import os
from cumulus.sdk import CumulusClient
with CumulusClient() as client:
    call = client.submit(os.getuid, gpu_memory="5%", duration="5m")
    print(call.name, call.result(150))
"""
STEAL = """
import sys, grpc
from cumulus.client.endpoint import Endpoint
from cumulus.client.http.client import HttpClient
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.rpc.orchestrator_pb2_grpc import OrchestratorStub
job = pb.JobRef(namespace=sys.argv[1], name=sys.argv[2])
with HttpClient(Endpoint("unix", "/run/cumulus/api.sock")) as client:
    ticket = client.grpc_ticket()
shown = [("cumulus-ticket", ticket.ticket)]
with grpc.insecure_channel(f"unix:{ticket.socket}") as channel:
    stub = OrchestratorStub(channel)
    asked = [
        lambda: stub.Get(pb.GetRequest(job=job), metadata=shown),
        lambda: list(stub.Result(pb.ResultRequest(job=job), metadata=shown)),
        lambda: list(stub.Logs(pb.LogsRequest(job=job), metadata=shown)),
        lambda: list(stub.Call(iter([pb.CallRequest(start=pb.CallStart(job=job))]), metadata=shown)),
        lambda: stub.Cancel(pb.CancelRequest(job=job), metadata=shown),
        lambda: stub.List(pb.ListRequest(), metadata=[]),
    ]
    for ask in asked:
        try:
            ask()
            print("ANSWERED")
        except grpc.RpcError as error:
            print(error.code().name)
    listed = stub.List(pb.ListRequest(), metadata=shown).jobs
    print(any(job.name.encode() in each.object for each in listed))
"""


def test_a_function_runs_as_who_calls_it_and_is_theirs_alone(daemon: SystemDaemon, users: tuple[User, User]) -> None:
    if not is_like_ours(PYTHON):
        pytest.skip(f"NOT TESTED: {PYTHON} is another version than this one")
    ann, bob = users
    where = {"PYTHONPATH": f"{ROOT}:{SITE}"}
    done = daemon.run(ann, PYTHON, "-c", CALL, **where)
    assert done.returncode == 0, done.stderr + daemon.written()
    name, uid = done.stdout.split()
    assert int(uid) == ann.uid
    stolen = daemon.run(bob, PYTHON, "-c", STEAL, ann.name, name, **where)
    assert stolen.stdout.split() == [*["PERMISSION_DENIED"] * 5, "UNAUTHENTICATED", "False"], stolen.stderr


BESIDE = """
import sys
from cumulus.client.endpoint import Endpoint
from cumulus.client.http.client import HttpClient
from cumulus.client.programs import Streams
from cumulus.errors import CumulusError
from cumulus.lib.execution import ExecRequest
from cumulus.resources.key import Key
namespace, name, terminal, *command = sys.argv[1:]
write = sys.stdout.buffer.write
with HttpClient(Endpoint("unix", "/run/cumulus/api.sock")) as client:
    key = Key("GPUJob", namespace, name)
    try:
        program = client.exec(key, 0, ExecRequest(tuple(command), terminal=terminal))
        write(f"code {program.run(Streams(write, write))}".encode())
    except CumulusError as error:
        print(type(error).__name__)
    for ask in (lambda: client.attach(key, stdin=True), lambda: client.forward(key, 0, 22, None)):
        try:
            ask()
        except CumulusError as error:
            print(type(error).__name__)
"""


def test_a_program_beside_a_job_is_its_submitters(daemon: SystemDaemon, users: tuple[User, User]) -> None:
    if not is_like_ours(PYTHON):
        pytest.skip(f"NOT TESTED: {PYTHON} is another version than this one")
    ann, bob = users
    beside = started(daemon, ann, "beside", *HOLD)
    work = f"{STATE}/process/users/{ann.uid}/{beside['metadata']['uid']}/a1-r0/work"
    script = (
        "id -u; id -G; pwd; umask; cat private; grep CapEff /proc/self/status; grep ^0:: /proc/self/cgroup; "
        "grep ^0:: /proc/$(tail -n 1 pids | cut -d ' ' -f 2)/cgroup; stat -c %u $(tty) 2>&1; exit 3"
    )

    def asks(user: User | None, *words: str) -> str:
        done = daemon.run(user, PYTHON, "-c", BESIDE, ann.name, "beside", *words, PYTHONPATH=f"{ROOT}:{SITE}")
        assert done.returncode == 0, done.stderr + daemon.written()
        return done.stdout.replace("\r", "")

    own = daemon.run(ann, "id", "-G").stdout
    for asking in (ann, None):
        # Also where root asks.
        uid, groups, directory, _, private, rights, *rest = asks(asking, "xterm", "sh", "-c", script).splitlines()
        assert (int(uid), f"{groups}\n", directory, private) == (ann.uid, own, work, "private")
        assert rights.split() == ["CapEff:", "0000000000000000"]
        here, there, terminal, *said = rest
        assert (here, int(terminal)) == (there, ann.uid), rest
        # It has no terminal of its own, and listens nowhere.
        assert said == ["code 3UsageError", "NotRunning"]
    assert asks(bob, "", "id").split() == ["Forbidden"] * 3


def test_the_readmes_tour_of_a_shared_machine(daemon: SystemDaemon, users: tuple[User, User], server: None) -> None:
    if not is_like_ours(PYTHON):
        pytest.skip(f"NOT TESTED: users can't start this Python, and {PYTHON} can't load what is installed for it")
    script = "\n".join(["set -eux", *commands("share")])
    with open_directory() as programs:
        for name, module in (("cumulus", "cumulus.cli.main"), ("chronos_cli", "cumulus.chronos.cli")):
            made = programs / name
            start = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {SITE!r}]; from {module} import main; sys.exit(main())"
            made.write_text(f"#!{PYTHON}\n{start}\n")
            made.chmod(0o755)
        for user in users:
            (user.home / "train.yaml").write_text(manifest())

        def walk(user: User) -> subprocess.CompletedProcess[str]:
            return daemon.run(user, "sh", "-c", f"cd; PATH={programs}:$PATH\n{script}")

        with ThreadPoolExecutor() as pool:
            both = list(pool.map(walk, users))
        for user, done in zip(users, both, strict=True):
            assert done.returncode == 0, done.stderr
            assert f"uid={user.uid}({user.name})" in done.stdout
            assert "gpujob.cumulus.dev/train created" in done.stdout
            assert "leased" in done.stdout


def test_a_shell_completes_what_a_user_may_read(daemon: SystemDaemon, users: tuple[User, User]) -> None:
    if not is_like_ours(PYTHON):
        pytest.skip(f"NOT TESTED: {PYTHON} is another version than this one")
    one = users[0]
    labelled = job("labelled", "true", suspend=True)
    labelled["metadata"]["labels"] = {"team": "vision"}
    answer = daemon.ask(one, "POST", jobs(one.name), labelled)
    assert answer.status == 201, answer
    script = "from cumulus.cli.main import main; main()"
    for line, offered in (("cumulus get jobs -n ", one.name), ("cumulus get jobs -l ", "team=vision")):
        asked = {
            "COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_CUMULUS_COMPLETE": "complete_bash",
            "PYTHONPATH": f"{ROOT}:{SITE}",
        }  # fmt: skip
        done = daemon.run(one, PYTHON, "-c", script, **asked)
        assert (done.stdout.split(), done.stderr) == ([offered], "")


class TestLeases:
    """`chronos_cli` of users, who can't open the machine's ledger."""

    def cli(self, daemon: SystemDaemon, user: User, *words: str) -> subprocess.CompletedProcess[str]:
        return daemon.run(user, PYTHON, "-m", "cumulus.chronos", *words, PYTHONPATH=str(ROOT))

    def test_all_are_seen_and_ones_own_are_changed(
        self, daemon: SystemDaemon, users: tuple[User, User], server: None
    ) -> None:
        one, other = users
        made = self.cli(daemon, one, "create", "0", "5%", "10m", "--name", "mine", "-q")
        assert made.returncode == 0, made.stderr
        id = made.stdout.strip()
        for user in users:
            [lease] = [
                lease
                for lease in json.loads(self.cli(daemon, user, "list", "--json").stdout)["leases"]
                if lease["partitionId"] == id
            ]
            assert lease["user"] == one.name
            assert "mine" in self.cli(daemon, user, "list").stdout
        for words in (("release", "mine"), ("renew", "mine", "1h"), ("begin", "mine"), ("exec", "mine", "--", "true")):
            done = self.cli(daemon, other, *words)
            assert (done.returncode, f"is {one.name}'s" in done.stderr) == (1, True), done
        assert self.cli(daemon, one, "renew", "mine", "20m").returncode == 0
        script = "id -u; echo $CHRONOS_PARTITION_ID; cat /proc/$$/status | grep Groups"
        done = self.cli(daemon, one, "exec", "mine", "--", "sh", "-c", script)
        assert done.stdout.split()[:2] == [str(one.uid), id], done
        assert self.cli(daemon, one, "release", "mine").returncode == 0

    def test_a_program_ends_with_its_lease(self, daemon: SystemDaemon, users: tuple[User, User], server: None) -> None:
        one = users[0]
        self.cli(daemon, one, "create", "0", "5%", "10m", "--name", "short", "--grace", "1s")
        command = ("sh", "-c", f": > {one.home}/runs; exec sleep 300")
        with daemon.running(PYTHON, "-m", "cumulus.chronos", "exec", "short", "--", *command, user=one) as process:
            eventually((one.home / "runs").exists, what=daemon.written)
            assert self.cli(daemon, one, "release", "short", "--wait").returncode == 0
            assert process.wait(PATIENCE) != 0

    def test_who_may_not_make_leases_and_whose_they_are(
        self, daemon: SystemDaemon, users: tuple[User, User], server: None
    ) -> None:
        one, other = users
        for user, words, said in (
            (other, (), "may not make leases"),
            (one, ("--user", other.name), f"for {one.name} alone"),
            (one, ("--owner", "somebody"), f"for {one.name} alone"),
        ):
            done = self.cli(daemon, user, "create", "0", "5%", "10m", *words)
            assert (done.returncode, said in done.stderr) == (1, True), done
        started(daemon, one, "leased", *HOLD)
        leases = json.loads(self.cli(daemon, one, "list", "--json").stdout)["leases"]
        [id] = [lease["partitionId"] for lease in leases if lease["name"].startswith(f"{one.name}/leased")]
        done = self.cli(daemon, one, "release", id)
        assert (done.returncode, "is a job's" in done.stderr) == (1, True), done

    def test_what_no_user_is_answered(self, daemon: SystemDaemon, users: tuple[User, User], server: None) -> None:
        forge = """
import json, socket, sys
for line in json.loads(sys.argv[1]):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("/run/chronos/users.sock")
    connection.sendall(line.encode() + b"\\n")
    print(connection.makefile().readline().strip())
""".replace("\\\\n", "\\n")
        runs = (
            ["monitor", "--once"], ["serve"], ["serve-users"], ["prepare", "x"], ["list", "--home", "/tmp"],
            ["devices", "--refresh"], ["nonsense"], 7,
        )  # fmt: skip
        refused = [*(json.dumps({"run": run}) for run in runs), "{}", "["]
        done = daemon.run(users[1], PYTHON, "-c", forge, json.dumps(refused))
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(refused), done
        assert all(answer["code"] != 0 for answer in answers), answers

    def test_one_who_asks_too_much_holds_up_nobody_else(
        self, daemon: SystemDaemon, users: tuple[User, User], server: None
    ) -> None:
        one, other = users
        flood = """
import socket, time
held = []
for _ in range(40):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect("/run/chronos/users.sock")
print("held", flush=True)
time.sleep(600)
"""
        with daemon.running(PYTHON, "-c", flood, user=one) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert self.cli(daemon, other, "list").returncode == 0
            done = self.cli(daemon, one, "list")
            assert (done.returncode, "too many of your requests" in done.stderr) == (1, True)
