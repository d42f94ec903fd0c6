"""`why` counts on the number of jobs that the leading daemon lets run, in whatever process it is answered."""

from __future__ import annotations

from pathlib import Path

from cumulus import job_limit
from cumulus.resources.key import Key
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from tests.documents import active, job, node
from tests.service.conftest import ME


def test_it_is_noted_and_goes(tmp_path: Path) -> None:
    assert job_limit.recall(tmp_path) is None
    job_limit.note(tmp_path, 3)
    assert job_limit.recall(tmp_path) == 3
    job_limit.note(tmp_path, None)
    job_limit.note(tmp_path, None)
    assert job_limit.recall(tmp_path) is None
    (tmp_path / "max-concurrent-jobs").write_text("x")
    assert job_limit.recall(tmp_path) is None


def test_why_says_so(tmp_path: Path) -> None:
    store = MemoryStore()
    held = active("first-a1-r0-d0")
    held["metadata"]["labels"] = {"cumulus.dev/job": "first"}
    for document in (node("gpu-1"), held, job("second", gpu={"memory": "1%"})):
        store.create(document)
    service = Service(lambda: store, tmp_path)

    def why() -> str:
        return service.explanations.why(ME, Key("GPUJob", "default", "second")).lines[0]

    assert "fits now" in why()
    job_limit.note(tmp_path, 1)
    assert why() == "gpujob/second: its queue does not admit it: 1 job runs, as many as MAX_CONCURRENT_JOBS allows."
    job_limit.note(tmp_path, 2)
    assert "fits now" in why()
