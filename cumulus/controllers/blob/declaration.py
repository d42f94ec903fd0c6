"""What the collection of blobs is made of."""

from __future__ import annotations

from cumulus.controllers.blob.controller import COLLECT, CollectReconciler
from cumulus.controllers.context import ControllerContext
from cumulus.machinery.controller import Controller

CONTROLLERS = (
    Controller[ControllerContext, CollectReconciler](
        name="blobs",
        build=lambda context: CollectReconciler(
            context.client.store, context.blobs, context.clock, context.blob_retention
        ),
        resync=lambda context: (COLLECT,),
    ),
)
