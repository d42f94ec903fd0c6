"""What an uploader is told on its standard input: one line of JSON, since it may hold keys. Standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from cumulus.blob.s3.bucket import Bucket, Keys
from cumulus.errors import UsageError
from cumulus.lib.unix_user import UnixUser


@dataclass(frozen=True)
class Config:
    """`keys`: None for those that boto3 finds as this process's first user. `within`: keys below which the place has to
    be, where the keys are the daemon's own: "" for anywhere. `user`: as whom it runs, None for who starts it; with
    `owner` then for whoever the checkpoints belong to.
    """

    uri: str
    keep: int = 1
    region: str = ""
    endpoint: str = ""
    keys: Keys | None = field(default=None, repr=False)
    within: str = ""
    user: UnixUser | None = None
    owner: bool = False
    linger: float = 86400.0
    """Seconds after its standard input has ended for which it goes on to try."""

    def encode(self) -> bytes:
        document = {
            "format": 1, "uri": self.uri, "keep": self.keep, "region": self.region, "endpoint": self.endpoint,
            "within": self.within, "user": self.user, "owner": self.owner, "linger": self.linger,
            "keys": None if self.keys is None else [
                self.keys.access_key, self.keys.secret_key, self.keys.session_token
            ],
        }  # fmt: skip
        return json.dumps(document).encode() + b"\n"

    @staticmethod
    def decode(line: bytes) -> Config:
        """Raises UsageError. No text of it is in the message."""
        try:
            given: dict[str, Any] = json.loads(line)
            if given.pop("format") != 1:
                raise ValueError
            keys, user = given.pop("keys"), given.pop("user")
            return Config(keys=None if keys is None else Keys(*keys), user=UnixUser.read(user), **given)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError("the configuration on standard input is none of an uploader") from None

    def bucket(self, name: str) -> Bucket:
        return Bucket(name, self.region, self.endpoint, self.keys)
