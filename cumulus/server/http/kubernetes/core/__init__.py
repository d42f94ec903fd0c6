"""core/v1: kinds of Kubernetes' own that its clients ask for, each a view of something here."""

from __future__ import annotations

from cumulus.server.http.kubernetes.core import events, exec, logs, namespaces, nodes, pods, portforward, secrets

ROUTES = (
    *events.ROUTES, *namespaces.ROUTES, *nodes.ROUTES, *pods.ROUTES, *exec.ROUTES, *portforward.ROUTES, *logs.ROUTES,
    *secrets.ROUTES,
)  # fmt: skip
