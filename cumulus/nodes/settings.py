"""How workers are logged in to: read from the environment by the daemon, or by a command that asks a worker."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from cumulus import environment


class SshSettings(BaseSettings):
    """`SshSettings()` reads the variables that `cumulus.environment` names; empty ones count as not set."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, env_ignore_empty=True, extra="forbid")

    key_path: str = Field("", validation_alias=environment.SSH_KEY_PATH)
    """The private key where a node names no secret; "": the agent and ~/.ssh."""
