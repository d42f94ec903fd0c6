"""How workers are logged in to: read from the environment by the daemon, or by a command that asks a worker."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from cumulus import environment
from cumulus.errors import UsageError

_PATH = re.compile(r"/[A-Za-z0-9._/+-]*[A-Za-z0-9._+-]")


def _program(value: str) -> str:
    # It becomes a word of a shell's on the node.
    if value and not _PATH.fullmatch(value):
        raise UsageError(
            f"{environment.CHRONOS_PATH} is {value!r}, which is no whole path of a program",
            hint="write it as /opt/chronos/bin/chronos_cli; a node's own command is spec.ssh.chronosCli",
        )
    return value


class SshSettings(BaseSettings):
    """`SshSettings()` reads the variables that `cumulus.environment` names; empty ones count as not set."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, env_ignore_empty=True, extra="forbid")

    key_path: str = Field("", validation_alias=environment.SSH_KEY_PATH)
    """The private key where a node names no secret; "": the agent and ~/.ssh."""
    chronos_path: Annotated[str, AfterValidator(_program)] = Field("", validation_alias=environment.CHRONOS_PATH)
    """Where chronos_cli is on nodes that name no command; "": on the PATH there."""
