"""What an uploader is told of a job: where its checkpoints are kept beyond the node, and with whose keys. Standard
library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cumulus import environment
from cumulus.blob.s3.bucket import Keys, bucket_of, keys_of
from cumulus.lib.unix_user import UnixUser
from cumulus.secrets import SecretStore, SecretUnavailable
from cumulus.uploader.config import Config

ENVIRONMENT = (
    environment.S3_BUCKET, environment.S3_REGION, environment.S3_ENDPOINT, environment.AWS_ACCESS_KEY_ID,
    environment.AWS_SECRET_ACCESS_KEY, environment.AWS_SESSION_TOKEN, *environment.AWS_OTHERS,
)  # fmt: skip
"""What of the daemon's environment says where its bucket is."""


class NoKeys(Exception):
    """The job's secret has none; the message is for a person."""


@dataclass(frozen=True)
class Beyond:
    """`after_uri`, `after_uid`: of the job that this one goes on from, "" for none. `variables`: the daemon's
    environment. `carried`: the uploader runs where these variables are not, so the daemon's keys go with the rest."""

    namespace: str
    job_uid: str
    uri: str
    credentials: str
    keep: int
    after_uri: str
    after_uid: str
    secrets: SecretStore
    variables: Mapping[str, str]
    user: UnixUser | None = None
    owner: bool = False
    carried: bool = False

    def own(self) -> Config:
        """Of the job's own place. Where the daemon's keys are good for it, they are for its uid alone: another user of
        the namespace, who could write in its place, could have it load whatever they like. Raises NoKeys."""
        return self._config(self.uri, self._prefix(self.namespace, self.job_uid))

    def other(self) -> Config:
        """The same for the job that it goes on from, which the submitter may read."""
        parts = self.after_uri.split("/")
        return self._config(self.after_uri, self._prefix(parts[4] if len(parts) == 6 else "", self.after_uid))

    def _config(self, uri: str, within: str) -> Config:
        bucket = bucket_of(self.variables)
        region, endpoint = ("", "") if bucket is None else (bucket.region, bucket.endpoint)
        keys = keys_of(self.variables) if self.carried else None
        if self.credentials:
            values = self._secret()
            within, keys = "", _keys(self.credentials, values)
            region = values.get(environment.AWS_REGION) or region
            endpoint = values.get(environment.AWS_ENDPOINT_URL) or endpoint
        return Config(
            uri, self.keep, region, endpoint, keys, within=within, user=self.user,
            owner=self.owner and self.user is None,
        )  # fmt: skip

    def _prefix(self, namespace: str, uid: str) -> str:
        return f"{self.variables.get(environment.S3_BUCKET, '')}/checkpoints/{namespace}/{uid}"

    def _secret(self) -> dict[str, str]:
        name = self.credentials
        try:
            return {key: self.secrets.get(each, key) for each, key in self.secrets.list() if each == name}
        except SecretUnavailable as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise NoKeys(f"checkpoint.credentials: {error}{hint}") from None


def _keys(name: str, values: Mapping[str, Any]) -> Keys:
    keys = keys_of(values)
    if keys is None:
        raise NoKeys(
            f"checkpoint.credentials: secret {name} has no keys {environment.AWS_ACCESS_KEY_ID} and "
            f"{environment.AWS_SECRET_ACCESS_KEY} (cumulus secret create {name} --from-file KEY=FILE)"
        )
    return keys


def taken_message(uri: str, step: int) -> str:
    """Why a first attempt does not begin. Tokens are of one job: what this one saves would not be copied, or the
    other's would be deleted."""
    return (
        f"checkpoint.uri: {uri} has checkpoints of another job already, the last of step {step} (name a place of its "
        "own; to go on from another job, name that in checkpoint.from)"
    )
