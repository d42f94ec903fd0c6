"""What the service reaches beyond its store: log files of backends, workers over SSH, Docker's engines.

It implements `service.infrastructure`. Each part is loaded when it is first used.
"""

from __future__ import annotations

from cumulus.infrastructure.local import LocalInfrastructure

__all__ = ["LocalInfrastructure"]
