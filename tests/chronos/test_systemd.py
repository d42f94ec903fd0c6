"""The services' units under a real systemd, PID 1 of namespaces of its own: they say when they are ready, are started
again when they are killed or hang, stop when told to, and neither leases nor jobs notice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, eventually

SYSTEMD = "/lib/systemd/systemd"
ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"

INIT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mkdir -p /run/units
for directory in /usr/local/bin /opt; do
  over=/run/over$directory
  mkdir -p "$over/upper" "$over/work"
  mount -t overlay overlay -o "lowerdir=$directory,upperdir=$over/upper,workdir=$over/work" "$directory"
done
umount -R -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
for target in sysinit basic shutdown multi-user network-online umount final; do
  printf '[Unit]\\nDefaultDependencies=no\\n' >"/run/units/$target.target"
done
mkdir -p /opt/cumulus/.venv/bin
printf '#!/bin/sh\\nexec %s -m cumulus.chronos "$@"\\n' "$PYTHON" >/usr/local/bin/chronos_cli
main='import sys; from cumulus.cli.main import main; sys.exit(main())'
printf '#!/bin/sh\\nexec %s -c "%s" "$@"\\n' "$PYTHON" "$main" >/opt/cumulus/.venv/bin/cumulus
chmod +x /usr/local/bin/chronos_cli /opt/cumulus/.venv/bin/cumulus
cp "$SCRIPTS"/*.service /run/units/
for unit in chronos-monitor cumulus; do
  mkdir "/run/units/$unit.service.d"
  # The tree under test, and a watchdog for which nobody waits half a minute.
  printf '[Service]\\nEnvironment=PYTHONPATH=%s\\nStandardOutput=append:%s\\nStandardError=inherit\\n' "$TREE" "$LOG" \\
    >"/run/units/$unit.service.d/test.conf"
done
printf '[Service]\\nWatchdogSec=3\\n' >/run/units/chronos-monitor.service.d/monitor_control.conf
exec env -i PATH="$PATH" container=test SYSTEMD_UNIT_PATH=/run/units \\
  "$SYSTEMD" --system --unit=multi-user.target --show-status=false --log-target=console
"""


def missing() -> str:
    """Why no systemd of our own can run here, "" where one can."""
    if os.geteuid() != 0:
        return "it takes root"
    absent = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if absent or not os.path.exists(SYSTEMD):
        return f"there is no {', '.join(absent) or SYSTEMD}"
    if cgroup_mount() is None:
        return "no cgroup2 is mounted"
    tried = subprocess.run(["unshare", "-mpuinC", "--fork", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


def cgroup_mount() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2" and os.access(line.split()[1], os.W_OK):
            return Path(line.split()[1])
    return None


pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why := missing()), reason=f"UNITS NOT TESTED: no systemd can be run here: {why}"),
]


class Machine:
    """A systemd in namespaces: its own processes, mounts, network and cgroups, and the host's files."""

    def __init__(self, directory: Path) -> None:
        mount = cgroup_mount()
        assert mount is not None
        self._cgroup = mount / f"cumulus-test-{os.getpid()}"
        self._cgroup.mkdir()
        self.log = directory / "systemd.log"
        # The cgroup first: it becomes the root of the namespace's.
        enter = 'echo 0 >"$0/cgroup.procs"; exec unshare -mpuinC --mount-proc --fork --kill-child sh -c "$1"'
        variables = {"PYTHON": sys.executable, "SCRIPTS": SCRIPTS, "TREE": ROOT, "SYSTEMD": SYSTEMD, "LOG": self.log}
        with open(self.log, "ab") as log:
            self._unshare = subprocess.Popen(
                ["sh", "-c", enter, str(self._cgroup), INIT],
                env={**os.environ, **{name: str(value) for name, value in variables.items()}},
                stdout=log,
                stderr=log,
            )
        self._init = 0

    def __enter__(self) -> Machine:
        try:
            up = ("running", "degraded")
            eventually(lambda: self.systemctl("is-system-running").stdout.strip() in up, what=self.written)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        with suppress(OSError):
            (self._cgroup / "cgroup.kill").write_text("1")
        self._unshare.kill()
        self._unshare.wait()
        for path, _, _ in os.walk(self._cgroup, topdown=False):
            eventually(lambda: _removed(path))  # noqa: B023

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """In the namespaces."""
        if not self._init:
            children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
            if not children:
                return subprocess.CompletedProcess([*command], 1, "", "it has not begun")
            self._init = int(children[0])
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "CHRONOS_HOME": "/var/lib/chronos"} | environment
        inside = ["nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i", "-n", "-C", "--", *command]
        return subprocess.run(inside, env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def written(self) -> str:
        """What systemd and its units wrote."""
        return self.log.read_text(errors="replace")

    def python(self, program: str) -> str:
        done = self.run(sys.executable, "-c", PRELUDE + textwrap.dedent(program))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", *arguments)

    def property(self, unit: str, name: str) -> str:
        return self.systemctl("show", "-p", name, "--value", unit).stdout.strip()

    def signal(self, unit: str, number: signal.Signals) -> None:
        """Its main process, and only that."""
        assert self.run("kill", f"-{number.value}", self.property(unit, "MainPID")).returncode == 0

    def until_started_again(self, unit: str, times: int) -> None:
        def started() -> bool:
            return self.property(unit, "NRestarts") == str(times) and self.property(unit, "ActiveState") == "active"

        eventually(started, what=self.written)


PRELUDE = """
import os, subprocess, sys, time
from cumulus.lib import processes; from cumulus.chronos import monitor_control
from cumulus.chronos.contract import Device, LeaseRequest
from cumulus.chronos.ledger import Ledger
ledger = Ledger(discover=lambda: [Device(0, "GPU-a", "H100", "NVIDIA", "gpu", 1 << 36)])
"""


def _removed(path: str) -> bool:
    with suppress(OSError):
        os.rmdir(path)
    return not os.path.exists(path)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path) as made:
        yield made


def test_the_units_are_correct(machine: Machine) -> None:
    for unit in ("chronos-monitor", "chronos-users", "cumulus"):
        done = machine.run("systemd-analyze", "verify", "--man=no", f"/run/units/{unit}.service")
        assert (done.returncode, done.stderr.replace("Unit docker.service not found.", "").strip()) == (0, "")
    # At most 8 of 10: jobs inherit what is taken from the daemon, and the unit says why each way is open.
    security = ("systemd-analyze", "security", "--offline=true", "--no-pager")
    done = machine.run(*security, "--threshold=80", "/run/units/cumulus.service")
    assert done.returncode == 0, done.stdout
    assert machine.run(*security, "--threshold=70", "/run/units/cumulus.service").returncode != 0, "nothing was judged"


def test_the_monitor_as_a_service(machine: Machine) -> None:
    unit = "chronos-monitor"
    first, job = machine.python(
        """
        lease = ledger.grant(LeaseRequest("a", device=0, memory_bytes=1, compute=1, seconds=600, grace=0))
        job = subprocess.Popen(["sleep", "600"], start_new_session=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ledger.attach("a", job.pid, lease.token)
        print(monitor_control.running(ledger.home), job.pid)
        """
    ).split()
    done = machine.systemctl("start", unit)
    assert done.returncode == 0, machine.log.read_text(errors="replace")
    assert machine.property(unit, "ActiveState") == "active"

    def monitor() -> str:
        return machine.python("print(monitor_control.running(ledger.home))")

    # It took over from the monitor that the grant had started.
    assert monitor() == machine.property(unit, "MainPID") != first
    machine.signal(unit, signal.SIGKILL)
    machine.until_started_again(unit, 1)
    machine.signal(unit, signal.SIGSTOP)
    machine.until_started_again(unit, 2)
    assert monitor() == machine.property(unit, "MainPID")
    assert machine.systemctl("stop", unit).returncode == 0
    assert machine.property(unit, "Result") == "success"
    # With no monitor at all, the lease and its process live on.
    alive = f"print([x.state.value for x in ledger.list()], os.path.exists('/proc/{job}'))"
    assert machine.python(alive) == "['Active'] True"
    assert machine.systemctl("start", unit).returncode == 0
    machine.python("ledger.release('a')")
    eventually(lambda: machine.python(alive) == "[] False", what=machine.written)


def test_the_controllers_as_a_service(machine: Machine, tmp_path: Path) -> None:
    unit = "cumulus"
    assert machine.systemctl("start", unit).returncode == 0, machine.log.read_text(errors="replace")
    assert machine.property(unit, "ActiveState") == "active"
    manifest = tmp_path / "job.yaml"
    manifest.write_text(JOB)
    cumulus = "/opt/cumulus/.venv/bin/cumulus"
    home = {"CUMULUS_HOME": "/var/lib/cumulus"}
    done = machine.run(cumulus, "apply", "-f", str(manifest), **home)
    assert done.returncode == 0, done.stderr

    def job() -> str:
        return machine.run("pgrep", "-f", "^sleep 4321").stdout.strip()

    eventually(job, what=machine.written)
    pid = job()
    machine.signal(unit, signal.SIGKILL)
    machine.until_started_again(unit, 1)
    assert job() == pid
    assert machine.systemctl("stop", unit).returncode == 0
    # It drained, and was not killed after TimeoutStopSec.
    assert machine.property(unit, "Result") == "success"
    assert job() == pid
    assert machine.systemctl("start", unit).returncode == 0
    done = machine.run(cumulus, "delete", "-f", str(manifest), **home)
    assert done.returncode == 0, done.stderr
    eventually(lambda: not job(), what=machine.written)


JOB = """
apiVersion: cumulus.dev/v1alpha1
kind: GPUJob
metadata:
  name: sleeper
spec:
  gpu:
    memory: 50%
    duration: 10m
  command: [sleep, "4321"]
"""
