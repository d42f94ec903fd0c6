"""`cumulus serve`: the options of the daemon. `cumulus.server` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cumulus import log, paths


def serve(
    home: Annotated[
        str, typer.Option(metavar="DIR", show_default=False, help="The state directory, instead of $CUMULUS_HOME.")
    ] = "",
    config_file: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="FILE",
            show_default=False,
            help="The configuration file. If left out, $ORCHESTRATOR_CONFIG, else ./config.yaml if it says "
            "apiVersion: cumulus.dev/v1alpha1.",
        ),
    ] = "",
    workers: Annotated[
        str,
        typer.Option(metavar="N", show_default=False, help="Threads for each of the job and partition controllers."),
    ] = "",
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            show_default=False,
            help="Where the API listens over TLS. If left out, 127.0.0.1 and a free port.",
        ),
    ] = "",
    tls_cert: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="The API's certificate, as PEM. If left out, an authority of its own makes one.",
        ),
    ] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", show_default=False, help="The key of --tls-cert.")] = "",
    client_ca: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="The authority that signs users' certificates. If left out, its own.",
        ),
    ] = "",
    grpc_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT|off",
            show_default=False,
            help="Where gRPC, for the SDK, listens over TLS. If left out, 127.0.0.1 and $ORCHESTRATOR_PORT or 50051. "
            "off: there is no gRPC, at the socket neither.",
        ),
    ] = "",
    system: Annotated[
        bool, typer.Option("--system", help="As root: serve every user of the machine (see docs/share-a-machine.md).")
    ] = False,
    log_format: Annotated[
        str, typer.Option(metavar="auto|json|console", help="auto: readable on a terminal, JSON otherwise.")
    ] = "auto",
    log_level: Annotated[
        str, typer.Option(metavar="debug|info|warning|error", help="The least that is logged.")
    ] = "info",
    log_file: Annotated[
        str, typer.Option(metavar="FILE", show_default=False, help="Log to this file instead; - is stderr.")
    ] = "",
) -> int:
    """Run the daemon, with its controllers, in the foreground.

    It needs nothing else: its store is a file in the state directory, and jobs are processes of this machine. Several
    daemons may run on one state directory: one leads, the others stand by. SIGTERM ends it; jobs go on without it.

    It answers its own user at CUMULUS_HOME/api.sock, and over TLS whoever has a token (`cumulus kubeconfig`, `cumulus
    token create`) or a client certificate: kubectl, say. gRPC, for the SDK, is at CUMULUS_HOME/grpc.sock and over TLS.

    Its log goes to stderr. If you start it with & at a terminal, it logs to serve.log in the state directory instead,
    so that it does not write into what you type next.

    \b
    Examples:
      cumulus serve
      cumulus serve --home /var/lib/cumulus --log-format json
      cumulus serve --config config.yaml --workers 8
      cumulus serve --listen 0.0.0.0:6443
      sudo cumulus serve --system
    """  # fmt: skip
    from cumulus.server import daemon, settings
    from cumulus.server.log_file import chosen

    if system:
        # Whatever CUMULUS_HOME says: that is for root's own commands.
        home = home or paths.SYSTEM_HOME
    log.configure(format=log_format, level=log_level, stream=chosen(log_file, Path(paths.home_text(home))))
    return daemon.run(
        settings.read(
            home=home, config_file=config_file, workers=workers, listen=listen, tls_cert=tls_cert, tls_key=tls_key,
            client_ca=client_ca, grpc_listen=grpc_listen, system=system,
        )
    )  # fmt: skip
