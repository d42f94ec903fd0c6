"""The examples, the notebook and the code of the pages, as they stand, against the real daemon."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from tests import pages
from tests.sdk.bed import Bed
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("sdk-examples")]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize(
    ("name", "needs", "prints"),
    [
        ("hello", "", "Hello world, you lease"), ("sweep_sklearn", "sklearn", "best of 9: 0.9"),
        ("sweep_xgboost", "xgboost", "best of 9: "), ("call_pytorch", "torch", "loss 0.0"),
    ],
)  # fmt: skip
def test_an_example(bed: Bed, name: str, needs: str, prints: str) -> None:
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"NOT TESTED: {needs} is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], env=bed.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert prints in done.stdout


@pytest.mark.parametrize("page", ["docs/sdk.md", "README.md"])
def test_the_code_of_a_page(bed: Bed, page: str) -> None:
    blocks = pages.blocks(pages.part(ROOT / page, "sdk"), "python")
    assert blocks
    bed.write("cumulus_demo_state.py", "")
    bed.python("page.py", "\n".join(blocks))


def test_the_notebook(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Any = nbformat.reads
    notebook = read((EXAMPLES / "notebook.ipynb").read_text(), as_version=4)
    for name, value in bed.env.items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, timeout=int(PATIENCE), resources={"metadata": {"path": str(bed.project)}}).execute()
    outputs = [
        "".join(output.get("text") or output["data"]["text/plain"] for output in cell.outputs)
        for cell in notebook.cells if cell.cell_type == "code"
    ]  # fmt: skip
    assert outputs == ["", "shifting 32\n42", "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]", "[1, 2]\n", "11"]


def test_interrupting_a_kernel_cancels_the_call(bed: Bed) -> None:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=bed.env, cwd=str(bed.project))
    kernel = manager.client()
    kernel.start_channels()
    try:
        kernel.wait_for_ready(timeout=PATIENCE)
        kernel.execute(
            "from cumulus.sdk import CumulusClient\n"
            "def sleeping():\n    import time\n    print('begun', flush=True)\n    time.sleep(600)\n"
            "CumulusClient().run(sleeping)\n"
        )
        while True:
            message = kernel.get_iopub_msg(timeout=PATIENCE)
            if message["msg_type"] == "stream":
                break
        manager.interrupt_kernel()
        while message["msg_type"] != "error":
            message = kernel.get_iopub_msg(timeout=PATIENCE)
        assert message["content"]["ename"] == "KeyboardInterrupt"
        eventually(lambda: not [job for job in bed.items("gpujobs") if "sleeping" in job["metadata"]["name"]])
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
