"""How each listener knows who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cumulus.errors import Unauthenticated
from cumulus.server.http.api import Api
from cumulus.server.http.connection import PEER, Peer

if TYPE_CHECKING:
    from starlette.types import Scope

    from cumulus.server.http.authentication import Authenticate
    from cumulus.service.accounts import Accounts
    from cumulus.service.identity import Identity


def by_peer(accounts: Accounts, api: Api) -> Authenticate:
    """Who asks over a Unix socket: the kernel says it. Raises Unauthenticated for every other connection."""

    async def authenticate(scope: Scope) -> Identity:
        peer = scope["state"].get(PEER)
        if not isinstance(peer, Peer):
            raise Unauthenticated("this connection does not show who asks", hint="ask over the socket of this machine")
        known = accounts.known(peer.uid)
        return await api.call(accounts.of_uid, peer.uid) if known is None else known

    return authenticate
