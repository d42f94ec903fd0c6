"""What a job sees and what is told of its end: real commands under real supervisors."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import Checkpointing, EnvVar, GangMember, WorkloadMount, WorkloadState
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.process.backend import ProcessBackend
from cumulus.backends.process.checkpointing import CheckpointWatch
from cumulus.backends.process.command import Command
from cumulus.backends.process.environment import DRIVERS, own_environment
from cumulus.backends.process.execs import Execs
from cumulus.backends.process.lease_guard import LeaseGuard
from cumulus.backends.process.rlimits import lower
from cumulus.backends.rundir.log import FileLog
from cumulus.errors import BackendError, BackendRefused
from tests.backends.process_bed import NODE, ProcessBed, job_processes, processes_of

PRINT_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


class TestCommand:
    def test_output_is_kept_in_order(self, bed: ProcessBed) -> None:
        script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done"
        work, _ = bed.run("sh", "-c", script)
        assert bed.log(work) == b"out1\nerr1\nout2\nerr2\nout3\nerr3\n"

    def test_bytes_that_are_no_text_and_arguments_that_are_not_ascii(self, bed: ProcessBed) -> None:
        work, _ = bed.run("printf", "%b", r"\0377\0000né日本\n", env=(EnvVar("Ü", "ß"),))
        assert bed.log(work) == b"\xff\0" + "né日本\n".encode()

    def test_each_attempt_has_a_directory_of_its_own(self, bed: ProcessBed) -> None:
        for attempt in (1, 2):
            work, _ = bed.run("sh", "-c", "ls; pwd; touch was-here; umask", attempt=attempt)
            assert bed.log(work).decode() == f"{bed.run_directory(work)}/work\n0022\n"

    def test_the_directory_of_a_failed_attempt_stays_until_the_job_is_purged(self, bed: ProcessBed) -> None:
        first, _ = bed.run("sh", "-c", "echo evidence > core; exit 3")
        bed.backend.remove(first.name)
        second, end = bed.run("true", attempt=2)
        bed.backend.remove(second.name)
        assert end.state is WorkloadState.SUCCEEDED
        assert (bed.run_directory(first) / "work" / "core").read_text() == "evidence\n"
        bed.backend.purge(first.job_uid)
        assert not bed.run_directory(first).parent.exists()

    def test_runs_in_the_directory_it_names(self, bed: ProcessBed, tmp_path: Path) -> None:
        (tmp_path / "a dir").mkdir()
        work, _ = bed.run("pwd", working_dir=str(tmp_path / "a dir"))
        assert bed.log(work).decode() == f"{tmp_path}/a dir\n"

    def test_standard_input_is_empty_and_no_descriptor_leaks(self, bed: ProcessBed) -> None:
        leaked = os.open("/dev/zero", os.O_RDONLY)
        os.set_inheritable(leaked, True)
        try:
            work, _ = bed.run("sh", "-c", "cat; ls -l /proc/$$/fd | grep -c -e zero -e lock")
        finally:
            os.close(leaked)
        assert bed.log(work) == b"0\n"

    def test_has_its_signals_at_their_defaults(self, bed: ProcessBed) -> None:
        work, _ = bed.run("cat", "/proc/self/status")
        status = dict(line.split(":\t") for line in bed.log(work).decode().splitlines())
        standard = (1 << 31) - 1  # The C library's own two come after them.
        assert int(status["SigBlk"], 16) == int(status["SigIgn"], 16) & standard == 0

    def test_is_in_a_group_of_its_own_and_outside_the_daemon_session(self, bed: ProcessBed) -> None:
        script = "import os; print(os.getpid() == os.getpgrp(), os.getsid(0))"
        work, _ = bed.run(sys.executable, "-c", script)
        own, session = bed.log(work).split()
        assert own == b"True"
        assert int(session) != os.getsid(0)

    def test_background_processes_end_with_the_command(self, bed: ProcessBed) -> None:
        work, end = bed.run("sh", "-c", "setsid sh -c 'setsid sleep 1000 & sleep 1000' & echo started")
        assert end.state is WorkloadState.SUCCEEDED
        assert job_processes(bed.run_directory(work)) == []

    def test_a_signal_is_told_as_a_shell_would(self, bed: ProcessBed) -> None:
        _, end = bed.run("sh", "-c", "kill -SEGV $$")
        assert (end.exit_code, end.reason, end.message) == (139, "Error", "ended with signal SIGSEGV")


class TestStartErrors:
    def told(self, bed: ProcessBed, *command: str, **more: Any) -> str:
        _, end = bed.run(*command, **more)
        assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "StartError", None)
        return end.message

    def test_unknown_command(self, bed: ProcessBed) -> None:
        message = self.told(bed, "no-such-program", env=(EnvVar("PATH", "/bin:/usr/bin"),))
        assert message == (
            "command not found: no-such-program; give its full path, or a program on PATH (/bin:/usr/bin)"
        )

    @pytest.mark.parametrize("value", ["/hush-hush/bin:/secret-place", "abc"])
    def test_a_secret_that_is_the_path_is_not_told(self, bed: ProcessBed, value: str) -> None:
        bed.secrets.set("db", "path", value)
        message = self.told(bed, "no-such-program", env=(EnvVar("PATH", secret="db", key="path"),))
        assert message == (
            "command not found: no-such-program; give its full path, or a program on PATH (from a secret)"
        )

    def test_no_secret_is_told_whatever_the_message_is_made_of(self, bed: ProcessBed) -> None:
        bed.secrets.set("db", "place", "hush-hush")
        message = self.told(bed, "/no/hush-hush/program", env=(EnvVar("PLACE", secret="db", key="place"),))
        assert message == "command not found: /no/[secret]/program; give a program that is on this node"

    def test_unknown_path(self, bed: ProcessBed) -> None:
        assert self.told(bed, "/no/such") == "command not found: /no/such; give a program that is on this node"

    def test_a_directory_as_command(self, bed: ProcessBed) -> None:
        assert "not executable" in self.told(bed, "/tmp")

    def test_not_executable(self, bed: ProcessBed, tmp_path: Path) -> None:
        (tmp_path / "job.py").write_text("print()")
        assert "is not executable; make it so with chmod +x" in self.told(bed, str(tmp_path / "job.py"))

    def test_missing_interpreter(self, bed: ProcessBed, tmp_path: Path) -> None:
        (tmp_path / "job").write_text("#!/no/such/python\n")
        (tmp_path / "job").chmod(0o755)
        assert "its interpreter (the first line of the file) is not on this node" in self.told(
            bed, str(tmp_path / "job")
        )

    def test_no_program(self, bed: ProcessBed, tmp_path: Path) -> None:
        (tmp_path / "job").write_text("print()\n")
        (tmp_path / "job").chmod(0o755)
        assert "has no #! line" in self.told(bed, str(tmp_path / "job"))

    def test_working_directory(self, bed: ProcessBed) -> None:
        message = self.told(bed, "true", working_dir="/no/such")
        assert message == "working directory /no/such is not a directory on this node"

    def test_too_many_arguments(self, bed: ProcessBed) -> None:
        assert "too long for this system" in self.told(bed, "echo", "x" * 200_000)

    def test_missing_mount(self, bed: ProcessBed) -> None:
        message = self.told(bed, "true", mounts=(WorkloadMount("/no/such", "data"),))
        assert message == "mount source /no/such is not on this node"

    def test_taken_mount_target(self, bed: ProcessBed, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("mine")
        message = self.told(bed, "true", working_dir=str(tmp_path), mounts=(WorkloadMount("/usr", "data"),))
        assert "is taken by something else" in message

    def test_a_target_behind_a_link(self, bed: ProcessBed, tmp_path: Path) -> None:
        (tmp_path / "others").mkdir()
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "in").symlink_to(tmp_path / "others")
        message = self.told(
            bed, "true", working_dir=f"{tmp_path}/work", mounts=(WorkloadMount("/usr", "in/deep/data"),)
        )
        assert "lies behind a symbolic link" in message
        assert list((tmp_path / "others").iterdir()) == []


class TestMounts:
    def test_relative_target_appears_in_the_working_directory(self, bed: ProcessBed, tmp_path: Path) -> None:
        (tmp_path / "weights").write_text("w")
        mounts = (WorkloadMount(str(tmp_path), "in/data"), WorkloadMount("/usr", "/usr"))
        work, end = bed.run("cat", "in/data/weights", mounts=mounts)
        assert (bed.log(work), end.state) == (b"w", WorkloadState.SUCCEEDED)

    @pytest.mark.parametrize(
        ("mount", "told"),
        [
            (WorkloadMount("/data", "/elsewhere"), "cannot appear at /elsewhere"),
            (WorkloadMount("/data", "../up"), "outside the working directory"),
            (WorkloadMount("/data", "a/../.."), "outside the working directory"),
            (WorkloadMount("/data", "."), "outside the working directory"),
            (WorkloadMount("/data", "data", read_only=True), "cannot be read-only"),
        ],
    )
    def test_impossible_ones_are_refused(self, bed: ProcessBed, mount: WorkloadMount, told: str) -> None:
        with pytest.raises(BackendRefused, match=told):
            bed.backend.start(bed.work("true", mounts=(mount,)))
        assert list(bed.backend.list()) == []

    @pytest.mark.parametrize("targets", [("data", "data/sub"), ("data/sub", "data"), ("data", "./data"), ("a", "a//b")])
    def test_none_becomes_a_link_in_the_source_of_another(
        self, bed: ProcessBed, tmp_path: Path, targets: tuple[str, str]
    ) -> None:
        mounts = tuple(WorkloadMount(str(tmp_path), target) for target in targets)
        with pytest.raises(BackendRefused, match="within another"):
            bed.backend.start(bed.work("true", mounts=mounts))
        bed.run("true", mounts=(WorkloadMount(str(tmp_path), "data"), WorkloadMount("/usr", "data-b")))

    def test_purge_leaves_what_was_mounted(self, bed: ProcessBed, tmp_path: Path) -> None:
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "file").write_text("x")
        work, _ = bed.run(
            "sh", "-c", "mkdir shut; touch shut/f; chmod 0 shut", mounts=(WorkloadMount(f"{tmp_path}/kept", "k"),)
        )
        bed.backend.purge(work.job_uid)
        assert (tmp_path / "kept" / "file").read_text() == "x"
        assert not bed.run_directory(work).parent.exists()


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"image": "busybox"}, "has no containers"),
            ({"node": "other"}, "is for node other"),
            ({"command": ()}, "no command"),
            ({"command": ("a\0b",)}, "NUL"),
            ({"working_dir": "relative"}, "relative to nothing"),
            ({"name": "../x"}, "cannot be the name"),
            ({"job_uid": ".."}, "cannot be the job uid"),
            ({"checkpoint_path": "../../x"}, "leaves the job's directory"),
            ({"checkpoint_path": "../a1-r0/exit.json"}, "leaves the job's directory"),
            ({"checkpoint_path": "."}, "leaves the job's directory"),
            ({"checkpoint_path": "a\0b"}, "NUL"),
            ({"working_dir": "/a\0b"}, "NUL"),
            ({"mounts": (WorkloadMount("/a\0", "b"),)}, "NUL"),
        ],
    )
    def test_what_a_process_can_never_do(self, bed: ProcessBed, fields: dict[str, Any], told: str) -> None:
        with pytest.raises(BackendRefused, match=told):
            bed.backend.start(bed.work(**{"command": ("true",), **fields}))


class TestEnvironment:
    def environment(self, bed: ProcessBed, **more: Any) -> dict[str, str]:
        work, _ = bed.run(sys.executable, "-c", PRINT_ENVIRONMENT, **more)
        return dict(json.loads(bed.log(work)))

    def test_is_the_stated_one_whatever_started_the_daemon(
        self, bed: ProcessBed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in (
            "AWS_SECRET_ACCESS_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR", "PYOPENCL_CTX", "VIRTUAL_ENV", "PYTHONPATH",
            "PYTHONHOME", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "http_proxy",
            "INVOCATION_ID", "NOTIFY_SOCKET", "POCL_CACHE_DIR", "XDG_CACHE_HOME", "CONDA_PREFIX", "LANGUAGE",
        ):  # fmt: skip
            monkeypatch.setenv(name, "/the/daemons")
        for name in ("HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "PYTHONUNBUFFERED"):
            monkeypatch.setenv(name, f"{os.environ.get(name, '')}:/the/daemons")
        user = pwd.getpwuid(os.geteuid())
        work, _ = bed.run("/usr/bin/env")
        assert dict(line.split("=", 1) for line in bed.log(work).decode().splitlines()) == {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell,
            "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1",
            "CUMULUS_JOB": "job", "CUMULUS_NAMESPACE": "default", "CUMULUS_WORKLOAD": work.name,
            "CUMULUS_ATTEMPT": "1", "CUMULUS_REPLICA": "0", "CUMULUS_REPLICAS": "1",
            "CUMULUS_JOB_UID": "uid-job", "CUMULUS_FENCING_TOKEN": "1",
        }  # fmt: skip

    def test_documented_is_all_that_there_may_be(self, bed: ProcessBed, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in DRIVERS:
            monkeypatch.setenv(name, "/opt/opencl")
        asked = Checkpointing(uri=f"file://{bed.directory}/kept", every=600, keep=3)
        gang = (GangMember(NODE),) * 2
        seen = self.environment(bed, checkpoint_path="state", checkpointing=asked, leases=(), replicas=2, gang=gang)
        documented = (Path(__file__).parents[3] / "docs" / "jobs.md").read_text()
        table = [line.split("|")[1] for line in documented.splitlines() if line.startswith("| `")]
        assert seen.keys() <= set(re.findall("`([A-Z_]+)`", " ".join(table)))
        assert {seen[name] for name in DRIVERS} == {"/opt/opencl"}

    def test_the_nodes_variables_are_over_the_logins_and_under_the_jobs(self, bed: ProcessBed) -> None:
        node = {"TMPDIR": "/scratch", "PATH": "/opt/bin:/usr/bin:/bin", "SITE": "here"}
        backend = ProcessBackend(bed.root, NODE, bed.job_secrets, job_env=node, environment=os.environ)
        backend.start(work := bed.work("env", env=(EnvVar("SITE", "mine"),)))
        bed.finish(work)
        backend.close()
        seen = bed.log(work).decode().splitlines()
        assert {"TMPDIR=/scratch", "PATH=/opt/bin:/usr/bin:/bin", "SITE=mine"} <= set(seen)

    def test_a_user_whom_the_system_does_not_list_has_one_too(
        self, bed: ProcessBed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
        seen = own_environment(bed.work("true"), {})
        assert (seen["HOME"], seen["USER"], seen["LOGNAME"], seen["SHELL"]) == (
            "/",
            "4000000000",
            "4000000000",
            "/bin/sh",
        )

    def test_own_variables_win_but_not_over_the_lease_mark(self, bed: ProcessBed) -> None:
        seen = self.environment(bed, env=(EnvVar("HOME", "/mine"), EnvVar("CUMULUS_WORKLOAD", "fake"), EnvVar("E", "")))
        assert (seen["HOME"], seen["CUMULUS_WORKLOAD"], seen["E"]) == ("/mine", f"default.job.{bed.token}-a1-r0", "")

    def test_a_relative_checkpoint_path_is_kept_over_attempts(self, bed: ProcessBed) -> None:
        script = 'cat "$CUMULUS_CHECKPOINT_PATH" 2>/dev/null || echo none; echo one >> "$CUMULUS_CHECKPOINT_PATH"'
        logs = [bed.log(bed.run("sh", "-c", script, attempt=a, checkpoint_path="state/last.ckpt")[0]) for a in (1, 2)]
        assert logs == [b"none\n", b"one\n"]


class TestSecrets:
    VALUE = "s3cr3t-of-the-test"

    def start(self, bed: ProcessBed, script: str) -> tuple[object, bytes]:
        bed.secrets.set("db", "password", self.VALUE)
        work, _ = bed.run("sh", "-c", script, env=(EnvVar("PASSWORD", secret="db", key="password"),))
        return work, bed.log(work)

    def test_reach_the_job(self, bed: ProcessBed) -> None:
        _, log = self.start(bed, f'test "$PASSWORD" = {self.VALUE[:6]}"{self.VALUE[6:]}" && echo same')
        assert log == b"same\n"

    def test_are_replaced_where_the_job_prints_them(self, bed: ProcessBed) -> None:
        _, log = self.start(bed, 'echo "<$PASSWORD>"; printf %s "$PASSWORD"')
        assert log == b"<[secret]>\n[secret]"

    def test_are_in_no_file_and_no_command_line(self, bed: ProcessBed) -> None:
        bed.secrets.set("db", "password", self.VALUE)
        script = 'echo "$PASSWORD"; env; : > ready; sleep 60'
        bed.backend.start(work := bed.work("sh", "-c", script, env=(EnvVar("PASSWORD", secret="db", key="password"),)))
        bed.running(work)
        bed.until(lambda: bed.log(work).count(b"[secret]") == 2)
        value = self.VALUE.encode()
        supervisor = bed.supervisor(work)
        for pid in processes_of(bed.directory):
            assert value not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert value not in Path(f"/proc/{supervisor}/environ").read_bytes()
        bed.backend.stop(work.name, 0)
        end = bed.finish(work)
        assert self.VALUE not in str(end)
        holders = [p for p in bed.root.rglob("*") if p.is_file() and value in p.read_bytes()]
        assert holders == []

    def test_take_no_mark_of_the_run_away(self, bed: ProcessBed) -> None:
        bed.secrets.set("evil", "name", "other-run")
        variable = EnvVar("CUMULUS_WORKLOAD", secret="evil", key="name")
        work, _ = bed.run("sh", "-c", 'echo "$CUMULUS_WORKLOAD"', env=(variable,))
        assert bed.log(work).decode() == f"{work.name}\n"

    def test_a_missing_one_is_named_and_nothing_is_run(self, bed: ProcessBed) -> None:
        work, end = bed.run("touch", "ran", env=(EnvVar("TOKEN", secret="hub", key="token"),))
        assert end.reason == "StartError"
        assert end.message.startswith("environment variable TOKEN: secret hub has no key token on this node (write it")
        assert not (bed.run_directory(work) / "work" / "ran").exists()

    def test_of_another_namespace_is_not_there(self, bed: ProcessBed) -> None:
        bed.job_secrets.of("other").set("hub", "token", self.VALUE)
        work, end = bed.run("touch", "ran", env=(EnvVar("TOKEN", secret="hub", key="token"),))
        assert "secret hub has no key token on this node" in end.message
        assert not (bed.run_directory(work) / "work" / "ran").exists()

    def test_one_that_others_can_read_is_not_used(self, bed: ProcessBed) -> None:
        bed.secrets.set("hub", "token", self.VALUE)
        os.chmod(Path(bed.secrets.root) / "hub" / "token", 0o644)
        _, end = bed.run("true", env=(EnvVar("TOKEN", secret="hub", key="token"),))
        assert end.reason == "StartError"
        assert "can be read by other users (mode 0644) (run: chmod 0600" in end.message
        assert self.VALUE not in end.message


class TestSurroundings:
    """Beside the environment: what a job has of its daemon's shell, which is nothing."""

    def test_limits_priority_and_umask_are_not_the_daemons(self, bed: ProcessBed) -> None:
        limited = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_STACK, resource.RLIMIT_CPU)
        before = [resource.getrlimit(number) for number in limited]
        umask = os.umask(0o077)
        try:
            # Other tests of this process may have left files open.
            few = len(os.listdir("/proc/self/fd")) + 512
            for number, soft in zip(limited, (few, before[1][1], 2**20, 3600), strict=True):
                resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))
            script = "ulimit -n; ulimit -c; ulimit -s; ulimit -t; umask; nice"
            work, end = bed.run("bash", "-c", script)
        finally:
            os.umask(umask)
            for number, limit in zip(limited, before, strict=True):
                resource.setrlimit(number, limit)
        assert end.state is WorkloadState.SUCCEEDED, end
        hard = [limit for _, limit in before]
        files, stack = lower(65536, hard[0]), lower(8 * 2**20, hard[2])
        cpu = "unlimited" if hard[3] == resource.RLIM_INFINITY else str(hard[3])
        assert bed.log(work).decode().split() == [str(files), "0", str(stack // 1024), cpu, "0022", "0"]

    def test_a_job_may_have_a_umask_of_its_own(self, bed: ProcessBed) -> None:
        work, _ = bed.run("sh", "-c", "umask", umask=0o027)
        assert bed.log(work) == b"0027\n"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may lower a nice value again")
    def test_a_nice_daemon_has_jobs_that_are_not(self, bed: ProcessBed) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 5)
        try:
            work, _ = bed.run("nice")
        finally:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        assert bed.log(work) == b"0\n"


class TestLimits:
    def test_memory(self, bed: ProcessBed) -> None:
        hog = "x = bytearray(300 << 20); print('allocated', flush=True); import time; time.sleep(60)"
        _, end = bed.run(sys.executable, "-c", hog, memory_bytes=100 << 20)
        assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "OOMKilled", 137)
        assert "its limit is 100 MiB" in end.message

    def test_memory_is_that_of_all_processes_together(self, bed: ProcessBed) -> None:
        hog = "import os, time; [os.fork() for _ in range(2)]; x = bytearray(40 << 20); time.sleep(60)"
        _, end = bed.run(sys.executable, "-c", hog, memory_bytes=120 << 20)
        assert end.reason == "OOMKilled"

    def test_memory_shared_after_fork_counts_once(self, bed: ProcessBed) -> None:
        share = "import os, time; x = bytearray(80 << 20); [os.fork() for _ in range(2)]; time.sleep(0.5)"
        _, end = bed.run(sys.executable, "-c", share, memory_bytes=160 << 20)
        assert end.state is WorkloadState.SUCCEEDED, end

    def test_address_space_is_not_limited(self, bed: ProcessBed) -> None:
        """OpenCL and CUDA reserve far more addresses than they use."""
        reserve = "import mmap; m = mmap.mmap(-1, 64 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)"
        _, end = bed.run(sys.executable, "-c", reserve, memory_bytes=100 << 20)
        assert end.state is WorkloadState.SUCCEEDED, end

    @pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
    def test_cpus(self, bed: ProcessBed) -> None:
        count = "import os; print(len(os.sched_getaffinity(0)))"
        for millis, expected in ((500, 1), (1000, 1), (1001, 2), (0, len(os.sched_getaffinity(0)))):
            work, _ = bed.run(sys.executable, "-c", count, cpu_millis=millis, job=f"cpu{millis}")
            assert int(bed.log(work)) == expected


class TestStop:
    def test_ends_what_forked_twice_and_ignores_the_signal(self, bed: ProcessBed) -> None:
        script = (
            "trap '' TERM; setsid sh -c 'setsid sh -c \"sleep 1000; true\" & sleep 1000' & : > ready; wait; sleep 1000"
        )
        bed.backend.start(work := bed.work("sh", "-c", script))
        bed.running(work)
        bed.backend.stop(work.name, 0.2)
        end = bed.finish(work)
        assert (end.reason, end.exit_code) == ("Stopped", 137)
        assert job_processes(bed.run_directory(work)) == []

    def test_ends_processes_that_keep_forking(self, bed: ProcessBed) -> None:
        """Each child forks the next and ends: no process is there for long."""
        relay = (
            "import os, signal\nsignal.alarm(20)\nopen('ready', 'w')\nos.fork()\n"
            "while True:\n  if os.fork(): os._exit(0)\n  os.setsid()"
        )
        keeper = f"trap '' TERM; {sys.executable} -c \"{relay}\"; sleep 60"
        bed.backend.start(work := bed.work("sh", "-c", keeper))
        bed.running(work)
        bed.backend.stop(work.name, 0)
        bed.finish(work)
        assert job_processes(bed.run_directory(work)) == []

    def test_the_grace_counts_from_the_first_look(self, bed: ProcessBed) -> None:
        """The supervisor looks at the request every second; that must not put the end off."""
        bed.backend.start(work := bed.work("sh", "-c", "trap '' TERM; : > ready; sleep 60; sleep 60"))
        bed.running(work)
        began = time.monotonic()
        bed.backend.stop(work.name, 1.3)
        assert bed.finish(work).exit_code == 137
        assert time.monotonic() - began > 1.2

    def test_exit_by_itself_after_the_signal_is_still_a_stop(self, bed: ProcessBed) -> None:
        script = "trap 'echo saved; exit 0' TERM; : > ready; while :; do sleep 0.05; done"
        bed.backend.start(work := bed.work("sh", "-c", script))
        bed.running(work)
        bed.backend.stop(work.name, 20)
        end = bed.finish(work)
        assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "Stopped", 0)
        assert bed.log(work).endswith(b"saved\n")

    def test_before_the_start_nothing_is_run(self, bed: ProcessBed) -> None:
        bed.start_unsupervised(work := bed.work("touch", "ran"))
        bed.backend.stop(work.name, 5)
        bed.reopen()
        assert bed.finish(work).message == "stopped before it started"
        assert not (bed.run_directory(work) / "work").exists()

    def test_a_request_whose_signal_was_lost_is_seen(self, bed: ProcessBed, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cumulus.backends.process.backend.signal_process", lambda *_: None)
        bed.backend.start(work := bed.work("sh", "-c", ": > ready; sleep 60"))
        bed.running(work)
        bed.backend.stop(work.name, 20)
        assert bed.finish(work).reason == "Stopped"

    def test_what_the_command_left_has_the_grace_too(self, bed: ProcessBed) -> None:
        """A shell ends at once and does not wait for the program that saves its work."""
        saver = "trap 'sleep 0.4; echo saved; exit' TERM; : > ready; while :; do sleep 0.02; done"
        bed.backend.start(work := bed.work("sh", "-c", f'sh -c "{saver}" & sleep 1000'))
        bed.running(work)
        bed.backend.stop(work.name, 20)
        end = bed.finish(work)
        assert (end.reason, end.exit_code) == ("Stopped", 143)
        assert bed.log(work).endswith(b"saved\n")

    def test_sigterm_to_the_supervisor_stops_the_job(self, bed: ProcessBed) -> None:
        bed.backend.start(work := bed.work("sh", "-c", "trap '' TERM; : > ready; sleep 60; sleep 60", grace=0.2))
        bed.running(work)
        os.kill(bed.supervisor(work), signal.SIGTERM)
        end = bed.finish(work)
        assert (end.reason, end.exit_code) == ("Stopped", 137)


class TestLogs:
    def test_a_writer_outside_the_tree_does_not_keep_a_run_from_its_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As one that has left it would: it holds the other end of the pipe, and fills it faster than it is read."""
        output, _ = os.pipe2(os.O_NONBLOCK)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                monkeypatch.setattr(os, "read", lambda descriptor, size: b"y" * size)
                guard = LeaseGuard({"leases": [], "env": {}, "chronos_home": None})
                watch = CheckpointWatch({"fixed_env": {}, "events": ""})
                os.chdir(tmp_path)
                execs = Execs({}, {}, "")
                Command({}, 0, output, output, FileLog(str(tmp_path)).writer(), guard, watch, execs).abandon()
                os._exit(0)
            finally:
                # A child that went on would run the tests that follow a second time.
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        pipe = fcntl.fcntl(output, fcntl.F_GETPIPE_SZ)
        assert pipe <= sum(path.stat().st_size for path in tmp_path.glob("log.*[0-9]")) <= 2 * pipe

    def test_a_flood_is_cut_in_the_middle(self, bed: ProcessBed) -> None:
        size = sum(DEFAULT_RETENTION) + (16 << 20)
        script = f"echo first; yes 0123456789abcde | head -c {size}; echo last"
        work, end = bed.run("sh", "-c", script)
        assert end.state is WorkloadState.SUCCEEDED
        log = bed.log(work)
        assert log.startswith(b"first\n")
        assert log.endswith(b"last\n")
        dropped = len(b"first\n") + size + len(b"last\n") - sum(DEFAULT_RETENTION)
        assert b"\n[cumulus: %d bytes of the log were dropped here" % dropped in log

    def test_how_much_is_kept_can_be_chosen(self, tmp_path: Path, bed: ProcessBed) -> None:
        kept = LogRetention(first=100_000, last=200_000)
        other = ProcessBackend(bed.root, NODE, bed.job_secrets, retention=kept, environment=os.environ)
        other.start(work := bed.work("sh", "-c", "yes 0123456789abcde | head -c 1000000"))
        end = bed.finish(work)
        other.close()
        assert end.state is WorkloadState.SUCCEEDED
        marker = b"\n[cumulus: 700000 bytes of the log were dropped here: it passed its limit]\n"
        assert len(bed.log(work)) == sum(kept) + len(marker)
        assert marker in bed.log(work)

    def test_follow_ends_with_the_job(self, bed: ProcessBed) -> None:
        script = "echo one; sleep 0.3; echo two; sleep 0.3; echo three"
        bed.backend.start(work := bed.work("sh", "-c", script))
        began = time.monotonic()
        chunks = [(time.monotonic() - began, c) for c in bed.backend.logs(work.job_uid, 1, 0, follow=True) if c]
        assert b"".join(c for _, c in chunks) == b"one\ntwo\nthree\n"
        assert len(chunks) >= 3

    def test_unknown_ones_are_an_error(self, bed: ProcessBed) -> None:
        with pytest.raises(BackendError, match="no log of attempt 3, replica 1"):
            bed.backend.logs("nobody", 3, 1)


def test_what_is_kept_of_jobs_is_their_users_alone(tmp_path: Path) -> None:
    """Whatever the umask of the daemon is."""
    umask = os.umask(0)
    try:
        bed = ProcessBed(tmp_path)
        bed.run("sh", "-c", "echo hello")
    finally:
        os.umask(umask)
        bed.close()
    modes = {p.relative_to(bed.root): p.stat().st_mode & 0o777 for p in (bed.root, *bed.root.rglob("*"))}
    assert {str(p): f"{mode:04o}" for p, mode in modes.items() if mode & 0o077} == {}
