"""What the removal of checkpoints is made of."""

from __future__ import annotations

from cumulus.controllers.checkpoint.controller import REMOVE, RemovalReconciler
from cumulus.controllers.context import ControllerContext
from cumulus.machinery.controller import Controller

CONTROLLERS = (
    Controller[ControllerContext, RemovalReconciler](
        name="checkpoints",
        build=lambda context: RemovalReconciler(context.client.store, context.removals, context.clock),
        resync=lambda context: (REMOVE,),
    ),
)
