"""What the API answers to who has no role where an object is. `tests/service/test_redaction.py` asks the service."""

from __future__ import annotations

import json

from tests.server.http.conftest import Served
from tests.service.test_redaction import ANNS, EVE, HUSH, LABS, MACHINE, theirs

GROUP = "/apis/cumulus.dev/v1alpha1"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
METADATA = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
NODES = (f"{GROUP}/gpunodes", "/api/v1/nodes")
PATHS = (
    *NODES, *(f"{path}/gpu-1" for path in NODES), f"{GROUP}/gpunodes/gpu-1/status",
    *(f"{path}?watch=1&timeoutSeconds=1&resourceVersion=1" for path in NODES),
    f"{GROUP}/gpunodes?fieldSelector=spec.ssh.user%3D{HUSH}", f"{GROUP}/gpunodes?limit=1",
    *(f"{GROUP}/namespaces/lab/{plural}" for plural in ("gpujobs", "gpupartitions", "events", "rolebindings")),
    *(f"{GROUP}/{plural}" for plural in ("gpujobs", "gpupartitions", "events", "leases", "clusterrolebindings")),
    f"{GROUP}/namespaces/lab/gpujobs/train", f"{GROUP}/namespaces/lab/gpupartitions/train-a1-r0-d0",
    f"{GROUP}/namespaces/lab/gpujobs?watch=1&timeoutSeconds=1",
    *(f"/api/v1/namespaces/lab/{plural}" for plural in ("pods", "events", "secrets")),
    "/api/v1/pods", "/api/v1/events", "/api/v1/secrets", "/api/v1/namespaces", "/api/v1/namespaces/lab/pods/train-0",
    "/api/v1/namespaces/lab/pods/train-0/log", "/metrics", "/livez", "/version",
)  # fmt: skip
CALLS = {
    "describe": {"key": list(MACHINE)}, "why": {"key": list(LABS)}, "delete_losses": {"key": list(MACHINE)},
    "logs": {"key": list(LABS)}, "find_damaged": {}, "server_state": {}, "secrets": {"namespace": "lab"},
    "suspend": {"key": list(LABS), "suspended": True}, "park": {"key": list(LABS), "parked": True},
    "job_files": {"uids": ["u-train"]}, "swarm_status": {},
    "timeline": {"start": 0, "end": 10**14, "pixels": 100}, "report": {"since": 0}, "job_use": {"key": list(LABS)},
    "line": {"queue": ""}, "usage": {}, "lease_rows": {"since": 0}, "held_over_time": {"start": 0, "end": 10**13},
}  # fmt: skip


def test_no_answer_tells_what_is_not_for_others(served: Served) -> None:
    for document in theirs():
        served.store.create(document)
    served.asks = EVE
    said = {}
    for path in PATHS:
        for accept in ("application/json", TABLE, METADATA, "application/yaml"):
            if "watch" in path and accept != "application/json":
                continue
            said[path, accept] = served.ask("GET", path, accept=accept)
    for name, arguments in CALLS.items():
        said[name, ""] = served.ask("POST", f"/cumulus/v1/{name}", arguments)
    watched = f"/cumulus/v1/watch?since=0&kinds=GPUNode,GPUJob&namespace={ANNS.namespace}"
    said["watch", ""] = served.ask("GET", watched)
    for asked, answer in said.items():
        assert answer.code < 500, asked
        text = answer.body.decode().replace(f"spec.ssh.user={HUSH}", "").replace(json.dumps(HUSH)[1:-1] + "%", "")
        assert HUSH not in text, (asked, text)
    assert said[NODES[0], "application/json"].code == 200
    assert "gpu-1" in said[NODES[0], TABLE].body.decode()
