"""`/metrics`, read as Prometheus reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from cumulus.service.identity import Identity
from tests.documents import active, job, node, running
from tests.server.http.conftest import Served

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana-dashboard.json"


def scraped(served: Served) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = served.ask("GET", "/metrics")
    assert answer.code == 200, answer.body
    families = text_string_to_metric_families(answer.body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_objects_are_counted_by_kind_namespace_and_phase(served: Served) -> None:
    for document in (job("a"), job("b", namespace="team"), running("c"), running("d")):
        served.store.create(document)
    found = scraped(served)

    def objects(namespace: str, phase: str) -> float | None:
        labels = (("kind", "GPUJob"), ("namespace", namespace), ("phase", phase))
        return found.get(("cumulus_objects", labels))

    assert objects("default", "Running") == 2
    assert objects("team", "Pending") == 1


def test_what_of_a_device_is_leased_and_until_when(served: Served) -> None:
    served.store.create(node("gpu-1", free=30 * 2**30))
    served.store.create(active("share"))
    found = scraped(served)
    device = (("device", "0"), ("node", "gpu-1"))
    total = found["cumulus_device_memory_bytes", device]
    assert found["cumulus_device_leased_memory_bytes", device] == total - 30 * 2**30
    assert found["cumulus_device_leases", device] == 1
    assert found["cumulus_node_ready", (("node", "gpu-1"),)] == 1
    assert found["cumulus_device_free_in_seconds", device] > 0


def test_requests_are_counted_by_words_of_ours_alone(served: Served) -> None:
    served.get("/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs")
    served.ask("GET", "/apis/cumulus.dev/v1alpha1/namespaces/default/forged%22%7D")
    served.ask("PROPFIND", "/livez")
    served.ask("GET", "/no/such/path")
    found = {labels: value for (name, labels), value in scraped(served).items() if name == "apiserver_request_total"}
    assert found[("code", "200"), ("resource", "gpujobs"), ("verb", "GET")] == 1
    assert {label for labels in found for name, label in labels if name == "resource"} <= {
        "gpujobs", "health", "objects", "other",
    }  # fmt: skip
    assert {label for labels in found for name, label in labels if name == "verb"} == {"GET", "other"}


def test_it_needs_the_role_viewer(served: Served) -> None:
    served.asks = Identity("stranger", 4711)
    assert served.ask("GET", "/metrics").code == 403


def test_a_damaged_object_does_not_keep_the_rest_from_being_told(served: Served) -> None:
    damaged = node("gpu-1")
    damaged["status"]["devices"] = [{"index": 0}, {"memoryBytes": None}]
    damaged["status"]["heartbeatTime"] = "yesterday"
    served.store.create(damaged)
    served.store.create(node("gpu-2"))
    assert ("cumulus_node_ready", (("node", "gpu-2"),)) in scraped(served)


def test_the_dashboard_asks_for_metrics_that_there_are(served: Served) -> None:
    exposed = served.ask("GET", "/metrics").body.decode()
    families = set(re.findall(r"^# TYPE (\S+) ", exposed, re.MULTILINE))
    known = families | {f"{name}_{part}" for name in families for part in ("bucket", "sum", "count")}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(expressions) >= 12
    for expression in expressions:
        names = re.findall(r"\b(?:cumulus|controller_runtime|workqueue|apiserver|process|leader)_\w+", expression)
        assert names, expression
        assert set(names) <= known, expression
