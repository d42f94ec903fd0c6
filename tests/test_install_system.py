"""The script that installs the system daemon, as far as it goes without changing this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import unix_users
from tests.waiting import PATIENCE

SCRIPT = Path(__file__).parents[1] / "scripts" / "install-system.sh"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": sys.executable}
    command = [SCRIPT, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_dry_run_says_each_step_and_takes_none() -> None:
    before = [path.exists() for path in map(Path, ("/opt/cumulus", "/etc/systemd/system/cumulus.service"))]
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    steps = done.stdout.splitlines()
    assert all(step.startswith("+ ") for step in steps)
    for step in ("-m venv /opt/cumulus/.venv", "scripts/cumulus.service", "systemctl restart", "--require-hashes"):
        assert any(step in line for line in steps)
    assert before == [path.exists() for path in map(Path, ("/opt/cumulus", "/etc/systemd/system/cumulus.service"))]


def test_a_wrong_option_is_refused_before_anything_is_done() -> None:
    done = run("--dry-runn")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--dry-runn is no option" in done.stderr


def steps(*arguments: str) -> list[str]:
    done = run("--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_installed_is_removed() -> None:
    """Each file, service, user and group that the one names the other names."""
    installed, kept, removed = steps(), steps("--uninstall"), steps("--purge")
    assert all(step.startswith("+ ") for step in kept + removed)
    links = {step.split()[-1] for step in installed if step.startswith("+ ln ")}
    units = {
        f"{step.split()[-1]}{Path(step.split()[-2]).name}"
        for step in installed
        if step.endswith("/etc/systemd/system/")
    }
    assert (len(links), len(units)) == (2, 3)
    for path in (*links, *units, "/opt/cumulus"):
        assert any(step.split()[1] == "rm" and step.split()[-1] == path for step in kept), path
    for unit in units:
        assert f"+ systemctl disable --now {Path(unit).stem}" in kept
    assert not any("/var/lib" in step or "del cumulus" in step for step in kept)
    assert removed[: len(kept)] == kept
    assert removed[len(kept) :] == [
        "+ rm -rf /var/lib/cumulus /var/lib/chronos", "+ userdel cumulus-build", "+ groupdel cumulus-admin",
    ]  # fmt: skip


EMPTY = """
set -e
mount --bind "$1" /etc
for place in /opt /usr/local/bin /var/lib /run; do mount -t tmpfs tmpfs $place; done
mkdir -p /opt/cumulus/.venv/bin /etc/systemd/system /var/lib/cumulus /var/lib/chronos/ledger.db
for unit in cumulus chronos-users chronos-monitor other; do touch /etc/systemd/system/$unit.service; done
printf '#!/bin/sh\necho "$LEASES"\n' > /opt/cumulus/.venv/bin/chronos_cli
chmod 755 /opt/cumulus/.venv/bin/chronos_cli
ln -s /opt/cumulus/.venv/bin/chronos_cli /usr/local/bin/chronos_cli
ln -s /opt/elsewhere /usr/local/bin/cumulus
getent group cumulus-admin > /dev/null || groupadd --system cumulus-admin
getent passwd cumulus-build > /dev/null || useradd --system --user-group --no-create-home cumulus-build
left() { find /opt /usr/local/bin /var/lib /etc/systemd/system -mindepth 1 | sort; getent group cumulus-admin || :; }
left > /run/before
LEASES='{"leases": [{"id": "a"}]}' "$2" --uninstall && exit 1
left | cmp - /run/before
export LEASES='{"leases": []}'
"$2" --uninstall
getent passwd cumulus-build > /dev/null
[ -d /var/lib/cumulus ]
"$2" --purge
"$2" --purge
echo left
left
! getent passwd cumulus-build
"""


@pytest.mark.skipif(bool(unix_users.missing()), reason=unix_users.missing())
def test_nothing_is_left_but_what_is_others(tmp_path: Path) -> None:
    """In a mount namespace, where all places that the script changes are this test's own."""
    for name in ("passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "ld.so.cache"):
        if (given := Path("/etc", name)).exists():
            shutil.copy(given, tmp_path / name)
    for name in ("pam.d", "alternatives"):
        if (given := Path("/etc", name)).exists():
            shutil.copytree(given, tmp_path / name, symlinks=True)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", EMPTY, "bash", tmp_path, SCRIPT],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "leases go on" in done.stderr
    assert done.stdout.partition("left\n")[2].split() == ["/etc/systemd/system/other.service", "/usr/local/bin/cumulus"]


def test_a_machine_without_leases_is_told_as_the_script_expects(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    command = [sys.executable, "-m", "cumulus.chronos", "list", "--json", "--home", tmp_path]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
    assert '"leases": []' in said
    assert '"leases": []' in SCRIPT.read_text()


def test_a_program_that_pip_wrote_starts_without_what_it_does_not_need(tmp_path: Path) -> None:
    begin, end = "import sys\n\ndef main():\n    print(sys.argv[0].rpartition('/')[2])\n", "    sys.exit(main())\n"
    begin_main = f"{begin}if __name__ == '__main__':\n    sys.argv[0] = "
    older = f"import re\n{begin_main}re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])\n{end}"
    newer = f"{begin_main}sys.argv[0].removesuffix('.exe')\n{end}"
    for name, text in (("older.exe", older), ("newer.exe", newer)):
        program = tmp_path / name
        program.write_text(text)
        light = ["bash", "-c", '. scripts/_python.sh && light_start "$1"', "bash", program]
        subprocess.run(light, cwd=SCRIPT.parents[1], check=True, timeout=PATIENCE)
        assert program.read_text() == newer
        said = subprocess.run([sys.executable, program], check=True, capture_output=True, text=True, timeout=PATIENCE)
        assert said.stdout == f"{program.stem}\n"
