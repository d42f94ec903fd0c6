"""The script that installs the system daemon, as far as it goes without changing this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
