"""Slurm as a peer: munged, slurmctld and slurmd on this machine, their files in a temporary directory. Needs root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.etcd import free_port
from benchmarks.harness import running, until

CONFIG = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.%n.pid
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
MaxJobCount=200000
MaxArraySize=100001
SchedulerParameters={scheduler}
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def available() -> str | None:
    """None where a Slurm can be run here, else why not."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)" if missing else None


SCHEDULER = "batch_sched_delay=0,sched_min_interval=0,sched_max_job_start=0,max_rpc_cnt=0"
"""What makes it start jobs as fast as it can."""


@contextmanager
def cluster(slots: int = 64, scheduler: str = SCHEDULER, nodes: int = 1) -> Iterator[dict[str, str]]:
    """A Slurm of so many nodes, each with so many job slots; gives the environment that its commands need."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        for part in ("munge", "state"):
            (directory / part).mkdir(mode=0o755)
        directory.chmod(0o755)
        key = directory / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        host = socket.gethostname().split(".")[0]
        config = directory / "slurm.conf"
        names = [f"node{number}" for number in range(nodes)]
        ports: set[int] = set()
        while len(ports) <= nodes:
            ports.add(free_port())
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports.pop()} CPUs={slots} RealMemory=1000 "
            "State=UNKNOWN"
            for name in names
        ]
        config.write_text(
            CONFIG.format(
                directory=directory, host=host, scheduler=scheduler, controller=ports.pop(), nodes="\n".join(lines)
            )
        )
        munge = [
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={directory}/munge/socket",
            f"--pid-file={directory}/munge/pid", f"--log-file={directory}/munge/log",
            f"--seed-file={directory}/munge/seed",
        ]  # fmt: skip
        env = {"SLURM_CONF": str(config)}
        stack.enter_context(running(munge, log=directory / "munged.log"))
        until((directory / "munge" / "socket").exists, seconds=10, what="munged listens")
        stack.enter_context(
            running(["slurmctld", "-D", "-c", "-f", str(config)], log=directory / "slurmctld.log", env=env)
        )
        for name in names:
            (directory / f"spool.{name}").mkdir(mode=0o755)
            command = ["slurmd", "-D", "-f", str(config), "-N", name]
            stack.enter_context(running(command, log=directory / f"{name}.log", env=env))
        environment = {**os.environ, **env}
        until(
            lambda: _call(["sinfo", "-h", "-t", "idle", "-o", "%D"], environment).strip() == str(nodes), seconds=60,
            what="every slurmd is idle",
        )  # fmt: skip
        yield environment


def jobs_per_second(env: dict[str, str], count: int) -> float:
    """`count` jobs running `true` from one array submission until the queue is empty."""
    start = time.perf_counter()
    submit = ["sbatch", "-Q", f"--array=1-{count}", "-o", "/dev/null", "--wrap", "true"]
    subprocess.run(submit, env=env, check=True, stdout=subprocess.DEVNULL)
    while _call(["squeue", "-h", "-t", "PENDING,RUNNING,CONFIGURING,COMPLETING", "-o", "%i"], env).strip():
        time.sleep(0.1)
    return count / (time.perf_counter() - start)


def _call(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout
