"""Which bucket, and with whose keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cumulus import environment
from cumulus.errors import UsageError

_SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class Keys:
    """Of an account. They are in no text that is made of this."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Bucket:
    """`keys`: None for those that boto3 finds: AWS_ACCESS_KEY_ID and its like, ~/.aws, the machine's role. `endpoint`:
    "" for Amazon's."""

    name: str
    region: str = ""
    endpoint: str = ""
    keys: Keys | None = None

    @property
    def place(self) -> str:
        """For messages."""
        return f"s3://{self.name}" + (f" at {self.endpoint}" if self.endpoint else "")


def bucket_of(variables: Mapping[str, str]) -> Bucket | None:
    """The bucket that CUMULUS_S3_BUCKET, CUMULUS_S3_REGION and CUMULUS_S3_ENDPOINT name; None where the first is not
    set. Raises UsageError."""
    name = variables.get(environment.S3_BUCKET, "")
    if not name:
        return None
    if "/" in name or len(name) < 3:
        raise UsageError(
            f"{environment.S3_BUCKET} is {name!r}, which names no bucket", hint="a bucket's name alone: my-bucket"
        )
    endpoint = variables.get(environment.S3_ENDPOINT, "")
    if endpoint and not endpoint.startswith(_SCHEMES):
        raise UsageError(
            f"{environment.S3_ENDPOINT} is {endpoint!r}", hint="it is a URL: https://s3.example.org, http://host:9000"
        )
    return Bucket(name, variables.get(environment.S3_REGION, ""), endpoint.rstrip("/"))


def keys_of(variables: Mapping[str, str]) -> Keys | None:
    """The keys in a secret or an environment, by the names that AWS gives them; None where there are none."""
    access, secret = (
        variables.get(environment.AWS_ACCESS_KEY_ID, ""),
        variables.get(environment.AWS_SECRET_ACCESS_KEY, ""),
    )
    return Keys(access, secret, variables.get(environment.AWS_SESSION_TOKEN, "")) if access and secret else None
