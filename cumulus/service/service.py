"""The application layer: what people and programs can ask of Cumulus, composed over one store.

Each concern is a module of this package and an attribute here. Every call takes the `Identity` of who asks. What a call
needs beyond the store is loaded by the call, so that a command starts as fast as its own verb.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cumulus.clock import Clock, SystemClock
from cumulus.errors import InvalidObject
from cumulus.resources.key import Document
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.server_state import ServerState, server_state
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.service.descriptions import Descriptions
    from cumulus.service.jobs import Jobs
    from cumulus.service.nodes import Nodes
    from cumulus.service.why import Explanations


class Service:
    """`home` is the state directory: the files of jobs are in it, and the daemon's lock."""

    def __init__(self, store: Store, home: Path, clock: Clock | None = None) -> None:
        self.store = store
        self.home = home
        self.clock = clock or SystemClock()
        self.objects = Objects(store, self.clock)

    @cached_property
    def jobs(self) -> Jobs:
        from cumulus.service.jobs import Jobs

        return Jobs(self.objects, self.home)

    @cached_property
    def nodes(self) -> Nodes:
        from cumulus.service.nodes import Nodes

        return Nodes(self.objects)

    @cached_property
    def explanations(self) -> Explanations:
        from cumulus.service.why import Explanations

        return Explanations(self.store, self.clock, self.objects)

    @cached_property
    def descriptions(self) -> Descriptions:
        from cumulus.service.descriptions import Descriptions

        return Descriptions(self)

    def find_damaged(self, identity: Identity, document: Document | None = None) -> InvalidObject | None:
        """What is wrong with `document`, else with the first stored object that is not what its kind says; None where
        all are."""
        from cumulus.service import diagnose

        return diagnose.find_damaged(self.store, document)

    def server_state(self, identity: Identity) -> ServerState:
        """Who keeps the objects up to date."""
        return server_state(self.store, self.home, self.clock)
