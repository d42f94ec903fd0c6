"""The SDK on the real daemon with process jobs: programs of their own, as users write them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.bed import Bed
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("sdk-daemon")]


def test_all_sorts_of_functions(bed: Bed) -> None:
    bed.write("package/__init__.py", "from package.inner import area\n")
    bed.write("package/inner.py", "def area(a, b):\n    from package import late\n    return late.times(a, b)\n")
    bed.write("package/late.py", "def times(a, b):\n    return a * b\n")
    out = bed.python(
        "sorts.py",
        """
        import os, threading
        import numpy
        from cumulus.sdk import CumulusClient, NotPicklable, gpu
        import package

        def plain(a, b=2):
            print("printed there")
            return a + b

        class Counter:
            def __init__(self, start):
                self.value = start
            def add(self, n):
                self.value += n
                return self

        class Odd(Exception):
            def __init__(self, code, text):
                super().__init__(text)
                self.code = code

        async def later(x):
            return x * 2

        def numbers():
            yield 1

        def fails():
            try:
                {}["k"]
            except KeyError as error:
                raise Odd(7, "odd") from error

        def forks():
            pid = os.fork()
            if pid == 0:
                os._exit(3)
            done = []
            thread = threading.Thread(target=lambda: done.append(1))
            thread.start(); thread.join()
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), done

        @gpu(memory=0.1, duration="5m")
        def decorated(x):
            return os.environ["CHRONOS_MEMORY_BYTES"], x

        if __name__ == "__main__":
            with CumulusClient() as client:
                assert client.run(plain, 1, gpu_memory=0.2, duration=300) == 3
                assert client.run(package.area, 3, 4) == 12
                array = numpy.arange(2_000_000)
                assert client.run(lambda: int(array.sum())) == int(array.sum())
                assert client.run(Counter(3).add, 4).value == 7
                assert client.run(later, 21) == 42
                try:
                    client.run(numbers)
                except NotPicklable as error:
                    print("generator:", error)
                try:
                    client.run(fails)
                except Odd as error:
                    assert error.code == 7 and isinstance(error.__cause__, KeyError)
                    assert 'raise Odd(7, "odd")' in error.__notes__[0], error.__notes__
                try:
                    client.run(lambda: __import__("sys").exit(4))
                except SystemExit as error:
                    assert error.code == 4
                assert client.run(forks) == (3, [1])
                memory, x = decorated(5)
                assert int(memory) > 0 and x == 5
                print("all good")
        """,
    )
    assert "printed there\n" in out
    assert "generator:" in out
    assert out.endswith("all good\n")


def test_a_result_is_fetched_by_another_process(bed: Bed) -> None:
    name = bed.python(
        "submits.py",
        """
        from cumulus.sdk import CumulusClient
        def work():
            print("worked")
            return {"answer": 42}
        print(CumulusClient().submit(work).name)
        """,
    ).strip()
    out = bed.python(
        "fetches.py",
        f"""
        import asyncio
        from cumulus.sdk import CumulusClient
        call = CumulusClient().attach({name!r})
        print(call.result(60), call.status, "".join(call.logs()), end="")
        async def main():
            return await call
        assert asyncio.run(main()) == {{"answer": 42}}
        """,
    )
    assert out == "{'answer': 42} Succeeded worked\n"
    job = bed.get("gpujob", name)
    assert job["status"]["call"]["outcome"] == "Returned"


def test_the_servers_are_killed_during_a_run(bed: Bed, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    program = bed.start(
        "survives.py",
        f"""
        from cumulus.sdk import CumulusClient
        def wait():
            import os, time
            print("begun", flush=True)
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.05)
            print("ended")
            return "done"
        print(CumulusClient().run(wait))
        """,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    daemon = bed.daemons[-1]
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    bed.up()
    gate.touch()
    out, err = program.communicate(timeout=PATIENCE)
    assert out == "ended\ndone\n", err
    assert program.returncode == 0, err


def test_map_goes_on_while_the_server_is_killed(bed: Bed, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    bed.write(
        "noting.py",
        """
        def note(path, value):
            import time
            with open(path, "a") as file:
                file.write(f"{value}\\n")
            time.sleep(0.002)
            return value * value
        """,
    )
    program = bed.start(
        "maps.py",
        f"""
        from cumulus.sdk import CumulusClient
        from noting import note
        with CumulusClient() as client:
            results = client.starmap(note, [({str(notes)!r}, value) for value in range(1000)], workers=2)
            found = []
            for value in results:
                found.append(value)
                if len(found) in (10, 300, 600):
                    print(len(found), flush=True)
        assert found == [value * value for value in range(1000)]
        print(sum(results.attempts.values()))
        """,
    )
    assert program.stdout is not None
    for count in ("10", "300", "600"):
        assert program.stdout.readline() == f"{count}\n", program.communicate()
        for pid in _grpc_servers(bed.daemons[-1].pid):
            os.kill(pid, signal.SIGKILL)
    out, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0, err
    assert out == "1000\n", "each item was begun once"
    assert sorted(map(int, notes.read_text().split())) == list(range(1000)), "each item ran once"


def _grpc_servers(daemon: int) -> list[int]:
    """Processes of the daemon that answer gRPC."""
    found = []
    for child in Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split():
        if b"cumulus.server.grpc" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(int(child))
    return found


def test_ctrl_c_cancels_and_a_dead_client_is_noticed(bed: Bed) -> None:
    text = """
        from cumulus.sdk import CumulusClient
        from cumulus.sdk import options
        options.ATTENDED = "2s"
        def sleeps():
            import time
            print("begun", flush=True)
            time.sleep(600)
        CumulusClient().run(sleeps)
        """
    for sent in (signal.SIGINT, signal.SIGKILL):
        program = bed.start("sleeps.py", text)
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        program.send_signal(sent)
        _, err = program.communicate(timeout=PATIENCE)
        assert program.returncode == -sent, err
        eventually(lambda: not [job for job in bed.items("gpujobs") if job["metadata"]["name"].startswith("sleeps-")])


def test_what_runs_no_call_is_told(bed: Bed) -> None:
    out = bed.python(
        "told.py",
        """
        import os
        from cumulus.errors import CumulusError
        from cumulus.sdk import Crashed, CumulusClient, LeaseExpired
        client = CumulusClient()
        def long():
            import time
            time.sleep(60)
        try:
            client.run(long, duration="2s")
        except LeaseExpired as error:
            print("expired:", error)
        try:
            client.run(os._exit, 9)
        except Crashed as error:
            print("crashed:", error)
        try:
            client.attach("nothing")
        except CumulusError as error:
            print("missing:", error)
        try:
            client.run(len, "x", gpu_memory="900Ti", env={"1": "x"})
        except CumulusError as error:
            print("refused:", error)
        from cumulus.sdk import options
        options.python_version = lambda: "3.99"
        try:
            CumulusClient(interpreter="/no/such/python").run(len, "x")
        except CumulusError as error:
            print("python:", error)
        """,
    )
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["expired", "crashed", "missing", "refused", "python"], out
    assert "no Python 3.99 is on this node" in lines[-1]


def test_blobs_that_were_collected_are_sent_again(bed: Bed) -> None:
    bed.write("helps.py", "def double(x):\n    return 2 * x\n")
    blobs = Path(bed.env["CUMULUS_HOME"], "blobs")
    out = bed.python(
        "sends.py",
        f"""
        import shutil
        from cumulus.sdk import CumulusClient
        from helps import double
        client = CumulusClient()
        print(client.run(double, 1))
        for each in {str(blobs)!r},:
            shutil.rmtree(each)
        print(client.run(double, 2))
        """,
    )
    assert out == "2\n4\n"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("gpu_memory='900Ti'", "no node could ever hold it (TooLarge: "),
        ("image='python:3.11'", "no node can run its image, for want of Docker's Swarm (RuntimeMissing: "),
    ],
)
def test_who_waits_learns_why(bed: Bed, option: str, said: str) -> None:
    program = bed.start("waits.py", f"from cumulus.sdk import CumulusClient\nCumulusClient().run(len, 'x', {option})\n")
    assert program.stderr is not None
    line = program.stderr.readline()
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=PATIENCE)
    assert line.startswith("len-")
    assert f" waits: {said}" in line
    assert "(more: cumulus why len-" in line


def test_from_another_machine(bed: Bed, tmp_path: Path) -> None:
    """By its address over TLS, with a token; what the environment says of proxies is not for it."""
    file = Path(bed.env["CUMULUS_HOME"], "grpc.json")
    # The gRPC server begins a little later than the daemon.
    eventually(file.exists)
    told = json.loads(file.read_text())
    (tmp_path / "ca.pem").write_text(told["ca"])
    token = bed.ok("token", "create").strip()
    program = bed.start(
        "elsewhere.py",
        f"""
        import os
        from cumulus.errors import CumulusError
        from cumulus.sdk import CumulusClient
        def attempt(token):
            try:
                return CumulusClient({told["address"]!r}, token).run(len, "x" * 7)
            except CumulusError as error:
                return type(error).__name__, str(error)
        print(attempt({token!r}))
        os.environ["CUMULUS_CA_FILE"] = {str(tmp_path / "ca.pem")!r}
        print(attempt("wrong"))
        print(attempt({token!r}))
        """,
        CUMULUS_HOME="",
        HTTPS_PROXY="http://127.0.0.1:9",
        https_proxy="http://127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
    )
    out, err = program.communicate(timeout=PATIENCE)
    untrusted, wrong, right = out.splitlines()
    assert "its certificate is not one that is trusted here" in untrusted
    assert wrong.startswith("('Unauthenticated'")
    assert right == "7"
    assert err == "", "gRPC's own lines are not shown"


def test_a_client_needs_a_daemon(tmp_path: Path) -> None:
    env = {**os.environ, "CUMULUS_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "from cumulus.sdk import CumulusClient; CumulusClient()"], env=env, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "no daemon runs" in done.stderr
    assert json.dumps(done.returncode) == "1"
