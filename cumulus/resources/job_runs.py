"""What a job has tried so far: the attempts of this run, and the runs before it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cumulus.resources.fields import Delay, Model, Time


class Attempt(Model):
    """One try at running the job. `reason` is set once it ended: Completed, Error, Saved, LeaseExpired, NodeLost,
    Suspended, Deadline, StartError, …"""

    number: int = Field(description="Counted from 1.")
    node: str = Field("", description="The node of replica 0.")
    nodes: tuple[str, ...] = Field((), description="The nodes of all replicas, in order, if there are several.")
    partitions: tuple[str, ...] = Field((), description="Names of the GPUPartitions it ran in.")
    queue_time: Time | None = Field(
        None, description="When it joined the queue. Attempts of the same priority are placed in this order."
    )
    start_time: Time | None = Field(None, description="When it was started.")
    end_time: Time | None = Field(None, description="When it ended.")
    exit_code: int | None = Field(
        None, description="Exit code of the first replica that failed, or 0; 128 + N if signal N ended it."
    )
    reason: str = Field(
        "",
        description="Set once it ended: Completed, Error, Saved, NotSaved, LeaseExpired, NodeLost, Suspended, "
        "Deadline, StartError, …",
    )
    checkpoint_time: Time | None = Field(
        None,
        description="When the newest file of its checkpoint was written; set if it exited with 75 or its lease ended.",
    )
    message: str = Field("", description="What happened, for people.")


class EarlierRun(Model):
    """A job of the same name whose place this one has taken: what is left of it, and where its logs are."""

    number: int = Field(description="Counted from 1.")
    uid: str = Field(description="The uid of the job that it was.")
    phase: str = Field(description="How far it was when its place was taken, in one word.")
    runtime: Literal["process", "container"] = Field("process", description="What its programs ran as.")
    replicas: int = Field(1, description="Size of its gang.")
    attempts: tuple[Attempt, ...] = Field((), description="Its last attempts, oldest first.")
    start_time: Time | None = Field(None, description="When its first attempt started.")
    completion_time: Time | None = Field(None, description="When it succeeded, failed or was ended.")
    ttl_after_finished: Delay | None = Field(None, description="How long after that its logs and files are deleted.")
    checkpoint_path: str | None = Field(None, description="Its spec.checkpoint.path.")
    checkpoint_uri: str | None = Field(None, description="Its spec.checkpoint.uri.")
    grace_period: Delay | None = Field(None, description="The time between the stop signal and SIGKILL, if it said so.")
    continued: bool = Field(False, description="Whether the run after it goes on from its last checkpoint.")
    released: bool = Field(
        False, description="Whether none of its programs runs any more and all its leases are given back."
    )
    purged: bool = Field(False, description="Whether its logs and files are deleted.")
