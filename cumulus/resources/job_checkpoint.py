"""A GPUJob's checkpoints: how it keeps its work, and what of it is saved."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cumulus.resources.fields import (
    Delay,
    Duration,
    FieldError,
    Model,
    NodePath,
    SecretName,
    Text,
    Time,
    check_name,
    rule,
)


class Checkpoint(Model):
    """How the job keeps its work when a lease ends. Without a checkpoint, a job that exits with 0 after the stop signal
    has succeeded."""

    path: NodePath | None = Field(
        None,
        description="The directory or file of the node where the job saves. The job finds it in "
        "CUMULUS_CHECKPOINT_PATH. All attempts share a relative path, and it is deleted with the job. If left out, a "
        "job without an image gets a directory of its own.",
    )
    uri: Text | None = Field(
        None,
        pattern=r"^(s3|file)://",
        description="Where checkpoints are kept beyond the node: s3://bucket/prefix, or file:///shared/directory. If "
        "left out, a bucket of the daemon's (CUMULUS_S3_BUCKET) gives s3://BUCKET/checkpoints/NAMESPACE/UID.",
    )
    credentials: SecretName | None = Field(
        None,
        description="A secret of the job's namespace with the keys to `uri`: AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN where there is one.",
    )
    every: Duration | None = Field(
        None,
        description="How often the program is to save while its lease goes on: should_checkpoint() is true when so "
        "much time has passed since the last save. If left out, only before the lease ends and when the node asks.",
    )
    keep: int = Field(2, ge=1, le=1000, description="How many checkpoints stay. Older ones are deleted by the program.")
    from_: str | None = Field(
        None,
        alias="from",
        description="Another job, as NAME or NAMESPACE/NAME, whose last checkpoint the first attempt goes on from. You "
        "must be allowed to read that job, and have submitted it.",
    )
    when_deleted: Literal["Delete", "Retain"] = Field(
        "Delete",
        description="What becomes of the job's checkpoints in the daemon's bucket when the job is deleted, also by its "
        "ttlAfterFinished. A `uri` of your own is never deleted from.",
    )
    grace_period: Delay = Field("30s", description="Time between the stop signal and SIGKILL, to write a checkpoint.")
    on_expiry: Literal["Requeue", "Fail", "Park"] = Field(
        "Requeue",
        description="What happens when the lease ends before the work is done. With Requeue, exit code 75 "
        "(EX_TEMPFAIL) always means: saved, start me again in a new lease. That is no failure, except for the second "
        "time in a row without a newer checkpoint. Park: keep the program in main memory until it gets a new lease on "
        "its GPU, for spec.parkFor at most; where that can't be done, the same as Requeue.",
    )
    exit_zero: Literal["Requeue", "Succeeded"] = Field(
        "Requeue",
        description="What exit code 0 means after the stop signal. Requeue: the work is saved but not done, so it goes "
        "on in a new lease. Succeeded: the work is done. Without a stop signal, exit code 0 always means done.",
    )

    @property
    def requeues(self) -> bool:
        """Whether the job goes on in a new lease where one ends too early."""
        return self.on_expiry != "Fail"

    @property
    def zero_means_done(self) -> bool:
        """Whether exit code 0 after the stop signal is success."""
        return self.exit_zero == "Succeeded"

    @rule
    def _credentials_of_a_bucket(self) -> None:
        if self.credentials is not None and self.uri is not None and not self.uri.startswith("s3://"):
            raise FieldError(("credentials",), f"are for s3://, and uri is {self.uri}; remove them")

    @rule
    def _path_is_no_uri(self) -> None:
        if self.path is not None and "://" in self.path:
            raise FieldError(("path",), f"is a directory or file of the node, got {self.path!r}; a URI goes to uri")

    @rule
    def _from_names_a_job(self) -> None:
        if self.from_ is None:
            return
        try:
            for part in self.from_.split("/", 1):
                check_name(part)
        except ValueError:
            raise FieldError(("from",), f"must name a job, as NAME or NAMESPACE/NAME, got {self.from_!r}") from None


class SavedCheckpoint(Model):
    """The newest whole checkpoint of a job, as its manifest tells."""

    step: int = Field(description="The step that it was saved at.")
    time: Time = Field(description="When it was whole.")
    size: int = Field(0, description="Bytes of its files.")
    seconds: float = Field(0.0, description="How long the save took.")
    node: str = Field("", description="The node whose disk it is on.")
    path: str = Field("", description="Its directory there.")
    uri: str = Field("", description="Where the job's checkpoints are kept beyond the node.")
    uploaded_step: int | None = Field(None, description="The newest step that is whole at `uri`.")
    upload_error: str = Field("", description="Why nothing newer gets there.")


class PrefetchedCheckpoint(Model):
    """The job's checkpoint, brought to where its next attempt is to run before anything is leased there."""

    attempt: int = Field(description="The attempt that it is for.")
    nodes: tuple[str, ...] = Field(description="The nodes of its replicas, as far as they are known.")
    state: Literal["Fetching", "Arrived", "Failed"] = Field(
        description="Fetching: it is on its way. Arrived: it is there. Failed: it is not; the start tries it again."
    )
    step: int | None = Field(None, description="The newest step that is there.")
    message: str = Field("", description="Why it did not come.")
