"""What the cluster controller is made of. Nothing wakes it: it looks at the cluster by time."""

from __future__ import annotations

from cumulus.controllers.context import ControllerContext
from cumulus.controllers.swarm.controller import CLUSTER, NAME, ClusterReconciler
from cumulus.machinery.controller import Controller


def build(context: ControllerContext) -> ClusterReconciler:
    assert context.cluster is not None
    return ClusterReconciler(
        context.cache, context.client, context.cluster, context.clock, context.recorder,
        here=context.agents.here, user=context.cluster_user, changed=context.changed_nodes.push,
    )  # fmt: skip


CONTROLLERS = (
    Controller[ControllerContext, ClusterReconciler](
        name=NAME,
        build=build,
        resync=lambda context: (CLUSTER,),
        enabled=lambda context: context.cluster is not None,
    ),
)
