"""The HTTP API: Kubernetes' paths and behaviour, and beside them what `client.Client` asks beyond objects.

`app` puts the routes together; `listener` serves it on sockets. Everything goes through `service`.
"""
