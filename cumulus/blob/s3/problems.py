"""What boto3 raises, as errors of ours: those that pass by themselves, and those that a person must mend."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

from cumulus.blob.s3.bucket import Bucket
from cumulus.clock import Clock, SystemClock
from cumulus.errors import BucketRefused, BucketUnavailable, CumulusError, ObjectChanged

MISSING = ("NoSuchKey", "NotFound", "404", "NoSuchUpload")
_CHANGED = ("PreconditionFailed", "412")
_AGAIN = (
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "InternalError",
    "ServiceUnavailable", "ConditionalRequestConflict", "OperationAborted", "BadDigest", "IncompleteBody",
)  # fmt: skip
_SECRET = ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "AuthorizationHeaderMalformed")
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException")


class Missing(Exception):
    """There is no such object or upload. Of this package alone."""


def problem(error: Exception, what: str, bucket: Bucket, clock: Clock = SystemClock()) -> Exception:
    """What to raise for an error of boto3's while it did `what`: Missing, ObjectChanged, BucketUnavailable where trying
    again helps, BucketRefused where it does not. Other errors are given back as they are."""
    from botocore import exceptions

    where = f"{what} in {bucket.place}"
    if isinstance(error, CumulusError | Missing):
        return error
    if isinstance(error, exceptions.ClientError):
        return _answered(error.response, where, bucket, clock)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return BucketRefused(
            f"could not {where}: there are no keys for it",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a secret that has them",
        )
    if isinstance(error, exceptions.CredentialRetrievalError):
        return BucketUnavailable(f"could not {where}: its keys could not be fetched: {_line(error)}")
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return BucketRefused(
            f"could not {where}: its certificate is not trusted here ({_line(error)})",
            hint="add its authority to those that this machine trusts",
        )
    # A server that refuses connections is one that is being restarted, as a rule; its name may be unknown for a while.
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError | OSError) or (
        type(error).__module__.split(".")[0] in ("urllib3", "http")
    ):
        return BucketUnavailable(f"could not {where}: it does not answer ({_line(error)})")
    if isinstance(error, exceptions.BotoCoreError):
        return BucketRefused(f"could not {where}: {_line(error)}")
    if isinstance(error, ValueError) and str(error).startswith(("Invalid endpoint", "Invalid IPv6 URL")):
        return BucketRefused(
            f"could not {where}: {bucket.endpoint!r} is no URL of a server", hint="as https://s3.example.org"
        )
    return error


def _answered(response: Any, where: str, bucket: Bucket, clock: Clock) -> Exception:
    code = str(response.get("Error", {}).get("Code", ""))
    said = " ".join(str(response.get("Error", {}).get("Message", "")).split())[:200]
    metadata = response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return BucketRefused(f"could not {where}: there is no such bucket", hint="make it, or name another")
    if code in MISSING or (status == 404 and code.isdecimal()):
        return Missing(where)
    if code in _CHANGED or status == 412:
        return ObjectChanged(f"could not {where}: it has changed meanwhile")
    if code == "RequestTimeTooSkewed" or (status in (400, 403) and _skew(metadata, clock) > 900):
        return BucketRefused(
            f"could not {where}: this machine's clock is {_skew(metadata, clock):.0f} s away from the server's",
            hint="set the clock of this machine, with chrony or systemd-timesyncd for example",
        )
    if code in _EXPIRED:
        return BucketRefused(f"could not {where}: the keys have expired", hint="renew them")
    if code in _SECRET:
        return BucketRefused(
            f"could not {where}: the keys are not right ({code})",
            hint="see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the secret that is named",
        )
    if code in ("PermanentRedirect", "301", "IllegalLocationConstraintException") or status == 301:
        return BucketRefused(
            f"could not {where}: the bucket is in another region than {bucket.region or 'the usual one'}",
            hint="set CUMULUS_S3_REGION to the bucket's",
        )
    if status == 403:
        return BucketRefused(
            f"could not {where}: the keys do not allow it ({code})",
            hint="allow GetObject, PutObject, DeleteObject, AbortMultipartUpload and ListBucket, or mend the keys",
        )
    if code in _AGAIN or status >= 500 or status == 429:
        return BucketUnavailable(f"could not {where}: the server says {code or status} {said}".rstrip())
    return BucketRefused(f"could not {where}: the server says {code or status} {said}".rstrip())


def _skew(metadata: Any, clock: Clock) -> float:
    """Seconds between the server's clock and this machine's, 0 where the server does not say."""
    try:
        told = parsedate_to_datetime(str(metadata.get("HTTPHeaders", {}).get("date", "")))
        return abs((clock.now() - told).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _line(error: Exception) -> str:
    """In one line, without the query of a URL: it may hold a signature."""
    return " ".join(word.partition("?")[0] for word in str(error).split())[:200] or type(error).__name__
