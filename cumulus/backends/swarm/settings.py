"""Which Swarm to use, and as which user: read from the environment by the daemon, or by a command that asks a Swarm."""

from __future__ import annotations

import re

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from cumulus import environment
from cumulus.errors import UsageError

_INSTANCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,48}[A-Za-z0-9])?")


class SwarmSettings(BaseSettings):
    """`SwarmSettings()` reads the variables that `cumulus.environment` names; empty ones count as not set."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, env_ignore_empty=True, extra="forbid")

    manager: str = Field("", validation_alias=environment.SWARM_MANAGER)
    docker_host: str = Field("", validation_alias=environment.DOCKER_HOST)
    docker_context: str = Field("", validation_alias=environment.DOCKER_CONTEXT)
    tls_verify: str = Field("", validation_alias=environment.DOCKER_TLS_VERIFY)
    certificates: str = Field("", validation_alias=environment.DOCKER_CERT_PATH)
    given_instance: str = Field("", validation_alias=environment.SWARM_INSTANCE)
    ssh_user: str = Field("root", validation_alias=environment.SWARM_SSH_USER)
    """Whom to be on its machines."""

    @property
    def is_named(self) -> bool:
        """Whether anything names a Swarm. Docker's current context may be one without."""
        return bool(self.manager or self.docker_host or self.docker_context)

    @property
    def managers(self) -> list[str]:
        """As they were written."""
        return (self.manager or self.docker_host).replace(",", " ").split()

    @property
    def tls(self) -> str:
        """The directory of the certificates, "" where the engine is not asked over TLS."""
        return self.certificates if self.tls_verify else ""

    @property
    def instance(self) -> str:
        """The name of this control plane, "" where none is given. Raises `UsageError` where it can be no part of a
        Swarm config's name."""
        given = self.given_instance
        if given and not _INSTANCE.fullmatch(given):
            raise UsageError(
                f"{environment.SWARM_INSTANCE} is {given[:80]!r}, which names no control plane",
                hint="take up to 50 letters, digits, '-', '_' and '.'; the first and the last a letter or digit",
            )
        return given
