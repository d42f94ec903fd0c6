"""The HTTP transport: a `Client` over a Unix socket, or over TLS with a token. Standard library only.

Objects go over Kubernetes' paths, all else over `/cumulus/v1/…` (see `cumulus.server.http.native`).
"""
