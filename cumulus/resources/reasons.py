"""Condition types and reasons: the CamelCase words of statuses, attempts and events, with what they mean for retries.

Members are plain text (`StrEnum`), so they compare equal to what is stored. Each enum says who sets its words.
Standard library only: the process supervisor and Chronos load this.
"""

from __future__ import annotations

from enum import Enum, StrEnum, unique

from cumulus.resources.condition_types import JobCondition as JobCondition
from cumulus.resources.condition_types import LeaderCondition as LeaderCondition
from cumulus.resources.condition_types import NodeCondition as NodeCondition
from cumulus.resources.condition_types import PartitionCondition as PartitionCondition
from cumulus.resources.condition_types import SourceCondition as SourceCondition


@unique
class RetryRule(Enum):
    """What the end of an attempt means for its job."""

    DONE = "done"
    """The job has succeeded."""
    FAULT = "fault"
    """It counts against spec.retry.limit."""
    DISRUPTION = "disruption"
    """Not the job's fault: it is tried again, after a growing pause, without a limit."""
    LOSS = "loss"
    """A disruption that the job may itself be the cause of: too many in a row end the job."""
    LATE = "late"
    """A disruption in which the program never started: too many in a row end the job."""
    SAVED = "saved"
    """It saved its work and goes on in a new lease."""
    OVERUSE = "overuse"
    """It held more of a GPU than was leased. With spec.checkpoint.onExpiry Requeue it goes on from its checkpoint,
    after a growing pause, and too many in a row end it; else it counts against spec.retry.limit."""
    EXPIRED = "expired"
    """Its lease was over: spec.checkpoint.onExpiry says whether the job goes on."""
    YIELDED = "yielded"
    """It gave up its share for a job of another queue. It goes on in the place that it had in its own."""
    HELD = "held"
    """The job is suspended: the next attempt begins when it is resumed."""
    FINAL = "final"
    """No further attempt is made."""

    @property
    def disruption(self) -> bool:
        """Whether something went wrong that was not the job's fault."""
        return self in (RetryRule.DISRUPTION, RetryRule.LOSS, RetryRule.LATE)

    @property
    def keeps_place(self) -> bool:
        """Whether the job keeps its place in the queue."""
        return self.disruption or self is RetryRule.YIELDED


@unique
class AttemptReason(StrEnum):
    """Why an attempt, or one workload of it, ended. Backends set the first seven; the job controller sets all."""

    retry: RetryRule

    def __new__(cls, value: str, retry: RetryRule) -> AttemptReason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.retry = retry
        return member

    ERROR = "Error", RetryRule.FAULT
    """Its program failed."""
    OOM_KILLED = "OOMKilled", RetryRule.FAULT
    """It used more memory than its limit."""
    START_ERROR = "StartError", RetryRule.FAULT
    """Its program could not be started."""
    LEASE_EXPIRED = "LeaseExpired", RetryRule.EXPIRED
    OVERUSED = "Overused", RetryRule.OVERUSE
    """Its processes held more of a GPU than was leased: they were killed at once."""
    STOPPED = "Stopped", RetryRule.DISRUPTION
    """Somebody stopped it, or its lease was released."""
    LOST = "Lost", RetryRule.LOSS
    """What ran it (its supervisor, its engine, its machine) went away."""

    COMPLETED = "Completed", RetryRule.DONE
    SAVED = "Saved", RetryRule.SAVED
    """It ended with exit code 75, and its checkpoint is newer than the last attempt's."""
    NOT_SAVED = "NotSaved", RetryRule.FAULT
    """It ended with exit code 75 for the second time in a row without a newer checkpoint."""
    SUSPENDED = "Suspended", RetryRule.HELD
    PREEMPTED = "Preempted", RetryRule.YIELDED
    """Its share went back to the queue whose quota it is."""
    REPLACED = "Replaced", RetryRule.FINAL
    """A rerun ended it, which made the job anew."""
    DEADLINE = "Deadline", RetryRule.FINAL
    """spec.activeDeadline was over."""
    IDLE = "Idle", RetryRule.FINAL
    """Its GPU did nothing for as long as `idle.after` says, and `idle.action` is Release."""
    START_REFUSED = "StartRefused", RetryRule.FINAL
    """Its backend will never start it."""
    STATUS_REFUSED = "StatusRefused", RetryRule.FINAL
    """Its job's status cannot be written."""
    NODE_LOST = "NodeLost", RetryRule.LOSS
    """Its node is gone, or was silent until its lease was over."""
    EXPIRED_BEFORE_START = "ExpiredBeforeStart", RetryRule.LATE
    """Its lease was over before its program could start."""
    GRANT_FAILED = "GrantFailed", RetryRule.DISRUPTION
    """Its node would not grant the lease."""
    LEASE_RELEASED = "LeaseReleased", RetryRule.DISRUPTION
    """Its lease was given back, or its partition deleted."""
    NODE_UNREACHABLE = "NodeUnreachable", RetryRule.DISRUPTION
    """Its node fell silent before it started."""


def retry_of(reason: str) -> RetryRule:
    """What an attempt's `reason` means for its job. A reason that is not known counts against the limit."""
    try:
        return AttemptReason(reason).retry  # type: ignore[call-arg]
    except ValueError:
        return RetryRule.FAULT


@unique
class JobReason(StrEnum):
    """Reasons of a GPUJob's conditions beside those of its attempts. The job controller sets them; what a job waits
    for in the queue has a `SchedulingReason`."""

    WAITING = "Waiting"
    """An earlier step has not come yet."""
    QUEUED = "Queued"
    DEPENDENCY = "Dependency"
    """Jobs that spec.after names have not ended yet."""
    DEPENDENCY_NEVER_SATISFIED = "DependencyNeverSatisfied"
    """It failed: a job that spec.after names ended otherwise, or was deleted."""
    BACKING_OFF = "BackingOff"
    """The next attempt waits for its time."""
    RELEASING = "Releasing"
    """The next attempt waits until the last one's leases are given back."""
    REPLACING = "Replacing"
    """What is left of the run before a rerun is being ended."""
    NAME_TAKEN = "NameTaken"
    """Another object has the name of its partition."""
    BOUND = "Bound"
    GRANTING = "Granting"
    """Its nodes are asked for the leases."""
    ACTIVE = "Active"
    """All its leases are granted."""
    STARTING = "Starting"
    STARTED = "Started"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """It failed: spec.activeDeadline was over."""
    PARKED = "Parked"
    PARK_REFUSED = "ParkRefused"
    """Its node could not park it: it goes on, or is stopped in another way."""
    UNPARKED = "Unparked"
    UNPARKING = "Unparking"
    """It has its share again, and its node brings it back to the GPU."""
    GPU_IDLE = "GPUIdle"
    """Its GPU did nothing for as long as `idle.after` says."""
    GPU_BUSY = "GPUBusy"
    """Its GPU works again."""


@unique
class ParkCause(StrEnum):
    """Why a job is parked. The job controller sets them, as reasons of its condition Parked."""

    REQUESTED = "Requested"
    """spec.park is true."""
    IDLE = "Idle"
    """Its GPU did nothing."""
    LEASE_OVER = "LeaseOver"
    """spec.checkpoint.onExpiry is Park."""
    PREEMPTED = "Preempted"
    """Its share was taken back for another job."""
    TURN_OVER = "TurnOver"
    """Its queue lets jobs take turns."""


@unique
class SchedulingReason(StrEnum):
    """Why something is not placed, on one node or at all. The scheduler sets them: on a partition's condition
    Bound, and from there on its job's condition Scheduled."""

    NODE_NOT_READY = "NodeNotReady"
    CORDONED = "Cordoned"
    OTHER_NODE = "OtherNode"
    RUNTIME_MISSING = "RuntimeMissing"
    NOT_ON_NODE = "NotOnNode"
    """What a job without an image needs is not on the node: its user, or its directory."""
    NO_UPLOADER = "NoUploader"
    """The node can't copy checkpoints to where the job keeps them."""
    CHECKPOINT_AWAY = "CheckpointAway"
    """The job's checkpoint is on another node alone, which does not answer."""
    LABEL_MISMATCH = "LabelMismatch"
    NO_MATCHING_DEVICE = "NoMatchingDevice"
    ENFORCEMENT_TOO_WEAK = "EnforcementTooWeak"
    TOO_LARGE = "TooLarge"
    DEVICE_FAILED = "DeviceFailed"
    NO_SUCH_NODE = "NoSuchNode"
    HOST_PORT_TAKEN = "HostPortTaken"
    RESERVED = "Reserved"
    """What is free is kept for a job ahead in the queue."""
    ROOM_FOR_PART = "RoomForPart"
    """There is room for some replicas of the gang, not for all."""
    INSUFFICIENT_COMPUTE = "InsufficientCompute"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    GANG_INCOMPLETE = "GangIncomplete"
    NO_NODE_FITS = "NoNodeFits"
    WAITING_FOR_SHARE = "WaitingForShare"
    TOO_MANY_JOBS = "TooManyJobs"
    """As many jobs run as the daemon's setting allows."""
    QUEUE_LIMIT = "QueueLimit"
    """Its queue, or its user there, holds as much as the queue allows."""
    QUEUE_CLOSED = "QueueClosed"
    """It is not one of the hours in which jobs of its queue start."""
    NO_QUEUE = "NoQueue"
    """Its queue is gone."""


@unique
class PartitionReason(StrEnum):
    """Reasons of a GPUPartition's conditions. The partition controller sets them, the binding controller Bound. A node
    that refuses or cannot use its ledger is quoted by the name of its error: InsufficientShare, LedgerFull."""

    BOUND = "Bound"
    LEASE_GRANTED = "LeaseGranted"
    LEASE_LIVES = "LeaseLives"
    ENDING = "Ending"
    """The lease is over and its processes are being ended: the share is still taken."""
    EXPIRED = "Expired"
    RELEASED = "Released"
    LEASE_LOST = "LeaseLost"
    """The node does not know the lease any more."""
    OVERUSED = "Overused"
    """Its processes held more than the lease."""
    WITHIN_LEASE = "WithinLease"
    """They do not any more."""
    PARKED = "Parked"
    PARK_REFUSED = "ParkRefused"
    """Its node could not park its program, which goes on."""
    UNPARKED = "Unparked"
    DEVICE_LOST = "DeviceLost"
    """Its device has failed."""
    UNPARK_FAILED = "UnparkFailed"
    """It was parked, and its node could not bring its processes back."""
    REBOOTED = "NodeRebooted"
    """It was parked when its node was restarted."""
    NODE_GONE = "NodeGone"
    """Somebody deleted its GPUNode."""
    NODE_UNREACHABLE = "NodeUnreachable"
    STATUS_REFUSED = "StatusRefused"

    @property
    def node_lost(self) -> bool:
        """Whether the lease went with its node: what ran in it counts as lost, not as refused."""
        gone = (PartitionReason.UNPARK_FAILED, PartitionReason.REBOOTED)
        return self in (PartitionReason.NODE_GONE, PartitionReason.LEASE_LOST, *gone)


@unique
class ReadyReason(StrEnum):
    """Reasons of a GPUNode's conditions Ready and Twin. The node controller sets them."""

    ANSWERS = "Answers"
    UNREACHABLE = "Unreachable"
    NO_LEDGER = "NoLedger"
    LEDGER_FULL = "LedgerFull"
    LEDGER_REPLACED = "LedgerReplaced"
    NO_HEARTBEAT = "NoHeartbeat"
    """No daemon looks after the node."""
    STATUS_REFUSED = "StatusRefused"
    ONE_MACHINE = "OneMachine"
    """Its devices are another node's too."""


@unique
class ContainersReason(StrEnum):
    """Reasons of a GPUNode's condition ContainersReady. The cluster controller sets them."""

    ACTIVE = "Active"
    DOWN = "Down"
    DRAINED = "Drained"
    PAUSED = "Paused"
    UNAVAILABLE = "Unavailable"
    NOT_A_MEMBER = "NotAMember"
    IS_MANAGER = "IsManager"
    """The node is to go, but it is a manager of the cluster."""
    LEFT = "Left"
    NOT_OURS = "NotOurs"
    """The cluster belongs to another control plane."""


@unique
class EnforcementReason(StrEnum):
    """Reasons of a GPUNode's conditions that its own Chronos sets: MPSReady, OpenCLLayer, CUDACounter, Policed,
    DevicesHealthy and OnlyLeased."""

    ANSWERS = "Answers"
    NOT_NEEDED_YET = "NotNeededYet"
    RESTARTED = "Restarted"
    """It was down, and is up again: shown for a while, so that whoever looks now and then learns of it."""
    UNAVAILABLE = "Unavailable"
    FAULTED = "Faulted"
    DOES_NOT_START = "DoesNotStart"
    FOUND = "Found"
    NOT_BUILT = "NotBuilt"
    LOADER_WITHOUT_LAYERS = "LoaderWithoutLayers"
    HEALTHY = "Healthy"
    DEVICE_FAILED = "DeviceFailed"
    ALL_LEASED = "AllLeased"
    UNLEASED_PROCESSES = "UnleasedProcesses"
    BY_PROCESS = "ByProcess"
    """The driver tells what each process holds."""
    BY_DEVICE = "ByDevice"
    """The driver's processes cannot be told apart: the total of a device is policed."""


@unique
class ParkingReason(StrEnum):
    """Why a node does not park a lease. The node's own Chronos says them; nothing was changed where it does."""

    again: bool
    """Whether asking again later may help."""

    def __new__(cls, value: str, again: bool = False) -> ParkingReason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.again = again
        return member

    NOT_SUPPORTED = "ParkingNotSupported"
    """Its device or its driver cannot move a program into main memory."""
    NOT_PROVEN = "ParkingNotProven"
    """The node's self-test has not shown that this framework comes back with this GPU and driver."""
    FAILED_BEFORE = "ParkingFailedBefore"
    """The node's self-test, or a lease, did not come back with this framework, GPU and driver."""
    NO_MEMORY = "NoParkingMemory", True
    """The node has not enough main memory for it."""
    MEMORY_LIMIT = "JobMemoryLimit"
    """The job's own limit of main memory would end it."""
    MPS_CLIENT = "MPSClient"
    MANAGED_MEMORY = "ManagedMemory"
    SHARED_MEMORY = "SharedGPUMemory"
    """It shares GPU memory with another process (CUDA IPC)."""
    PEER_ACCESS = "PeerAccess"
    """It reaches the memory of another GPU."""
    SEVERAL_DEVICES = "SeveralDevices"
    """One of its processes runs in leases of several devices."""
    NOT_COUNTED = "NotCounted"
    """The counting library does not know one of its processes, so nobody knows how that allocates."""
    NOT_CUDA = "NotCUDA"
    """One of its processes holds the GPU otherwise than through CUDA."""
    CANNOT_FREEZE = "CannotFreeze"
    DRIVER_REFUSED = "DriverRefused", True
    """The driver did not lock or move one of its processes: those before it were brought back."""
    GPU_NOT_FREED = "GPUNotFreed", True
    """All was moved, and the driver still shows memory of the GPU as taken by it: it was brought back."""
    PROCESSES_CHANGED = "ProcessesChanged", True
    """New processes of it came to the GPU faster than they could be locked."""
    INTERRUPTED = "Interrupted", True
    """What parked it ended meanwhile: it was brought back."""


@unique
class ArrayReason(StrEnum):
    """Reasons of a GPUJobArray's condition JobsMade. The array controller sets them."""

    NAME_TAKEN = "NameTaken"
    """Other jobs have the names of some of its jobs. It makes the others."""
    REFUSED = "Refused"
    """Its submitter may not make such a job."""
    MADE = "Made"


@unique
class SourceReason(StrEnum):
    """Reasons of a Source's conditions. The source controller sets them."""

    FETCHED = "Fetched"
    FETCH_FAILED = "FetchFailed"
    """The repository or directory cannot be read. Nothing is changed."""
    REF_NOT_FOUND = "RefNotFound"
    """The branch, tag or commit is not there. Nothing is changed."""
    CREDENTIALS = "CredentialsUnusable"
    ADDRESS_REFUSED = "AddressRefused"
    RENDER_FAILED = "RenderFailed"
    """What makes the manifests cannot be run."""
    NOT_VERIFIED = "NotVerified"
    """The signature that is demanded is not there, or not good."""
    SUSPENDED = "Suspended"
    SYNCED = "Synced"
    INVALID = "InvalidManifests"
    """A manifest has a mistake. Nothing is changed."""
    REFUSED = "Refused"
    """Its submitter may not make or change something of it. Nothing is changed."""
    NEEDS_APPROVAL = "NeedsApproval"
    REPLACING = "Replacing"
    """Objects are being made anew."""
    DRIFTED = "Drifted"
    """Somebody else changed fields, and drift is only reported."""
    HEALTHY = "Healthy"
    OBJECTS_FAILED = "ObjectsFailed"


@unique
class LeaderReason(StrEnum):
    """Reasons of the condition Progressing on the leader's Lease. The leader sets them."""

    WORKS = "Works"
    STALLED = "Stalled"


@unique
class EventReason(StrEnum):
    """Reasons of events that are no condition's and no attempt's. The controllers, backends and the service set
    them."""

    ATTEMPT_FAILED = "AttemptFailed"
    REQUEUED = "Requeued"
    CHECKPOINT_SAVED = "CheckpointSaved"
    """The first checkpoint of an attempt is whole, or the one with which it ends."""
    CHECKPOINT_NOT_COPIED = "CheckpointNotCopied"
    """What it saves does not get beyond its node. The job goes on, and the copying is tried again."""
    CHECKPOINT_PREFETCHED = "CheckpointPrefetched"
    """It is where the next attempt is to run, before that has a lease."""
    CHECKPOINT_NOT_PREFETCHED = "CheckpointNotPrefetched"
    EXITED_ZERO_AGAIN = "ExitedZeroAgain"
    """A job is requeued again and again though its program exits with 0: it may be done."""
    LEASED = "Leased"
    RENEWED = "Renewed"
    EXTENDED = "Extended"
    """Its lease was lengthened by `cumulus extend`."""
    CHANGED_BY_ANOTHER = "ChangedByAnother"
    """Somebody other than its submitter changed or deleted the object."""
    DELETED_BY_HAND = "DeletedByHand"
    """Its submitter deleted an object of a Source, which will make it anew unless it ran."""
    SYNCED = "Synced"
    """A revision of a Source was applied."""
    SYNC_FAILED = "SyncFailed"
    SYNC_PENDING = "SyncPending"
    """What a Source asks for waits for an approval."""
    DRIFT_FOUND = "DriftFound"
    """Somebody else changed a field of a Source, or deleted an object of it."""
    HISTORY_REWRITTEN = "HistoryRewritten"
    """A branch does not descend from what was synced."""
    PROMISE_MOVED = "PromiseMoved"
    """A job starts later than it was promised."""
    TAKEN_BACK = "TakenBack"
    """A queue needs its quota back, of which a job holds a share."""
    KEPT_AFTER_ALL = "KeptAfterAll"
    """Nobody needs that share any more."""
    SUCCESSFUL_CREATE = "SuccessfulCreate"
    """A GPUCronJob made a job."""
    FAILED_CREATE = "FailedCreate"
    """A GPUCronJob or GPUJobArray could not make the job that is due."""
    JOB_ALREADY_ACTIVE = "JobAlreadyActive"
    """A GPUCronJob's job is due, and with Forbid waits for the end of an earlier one."""
    MISS_SCHEDULE = "MissSchedule"
    """A GPUCronJob's job was left out: it would have been later than its deadline allows."""
    NOT_READY = "NotReady"
    DEVICE_RESIZED = "DeviceResized"
    ENGINE_STOPPED = "EngineStopped"
    NODE_DOWN = "NodeDown"
    NODE_DRAINED = "NodeDrained"
    NODE_REMOVED = "NodeRemoved"
    SERVICE_ADOPTED = "ServiceAdopted"
    SERVICE_CHANGED = "ServiceChanged"
    SERVICE_ENDED = "ServiceEnded"
    SERVICE_REMOVED = "ServiceRemoved"
    SERVICE_SCALED = "ServiceScaled"
    TASK_FORGOTTEN = "TaskForgotten"
