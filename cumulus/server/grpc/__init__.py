"""The gRPC server, which carries what the SDK needs beyond the HTTP API. A process of its own: gRPC and fork don't mix.

The daemon starts it (`server.grpc_process`), and it ends with the daemon. It opens the store itself, and answers by the
same service, identities and roles as the HTTP API.
"""
