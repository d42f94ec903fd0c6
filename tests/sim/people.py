"""What people do in the simulation, and what they were promised by it: the acknowledged state of every object."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cumulus.chronos.contract import EndReason, LeaseRequest
from cumulus.clock import timestamp
from cumulus.errors import AlreadyExists, ChronosError, CumulusError
from cumulus.resources.annotations import UNPARK_REQUESTED
from cumulus.resources.cron_job import GPUCronJob, GPUCronJobSpec, JobTemplate, TemplateMeta
from cumulus.resources.job import GPU, GPUJob, GPUJobSpec, RetryPolicy
from cumulus.resources.job_array import GPUJobArray, GPUJobArraySpec
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import ObjectMeta, Resource
from cumulus.resources.node import GPUNode
from cumulus.resources.parking import Idle
from cumulus.resources.partition import GPUPartition, GPUPartitionSpec, Renewal
from cumulus.resources.preemption import Preemptible
from cumulus.resources.queue import Queue, QueueSpec
from cumulus.resources.reservation import Reservation, ReservationSpec
from cumulus.resources.submitter import QUEUE, SUBMITTER
from cumulus.store.client import StoreClient
from tests.sim.schedule import GRACE, Action, Program
from tests.sim.truth import run_name

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

NAMESPACE = "default"

UNPARK_SECONDS = 60.0
"""How often who has asked for a job once looks whether it is parked again."""

AGAIN_SECONDS = 0.5
"""How often a person tries again to make what is there already."""


@dataclass
class Wanted:
    """What was acknowledged of one object."""

    uid: str
    spec: dict[str, Any]
    program: Program | None = None


class Model:
    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._client = StoreClient(sim.store)
        self.jobs: dict[str, Wanted] = {}
        """The jobs that were made and not deleted, by name."""
        self.partitions: dict[str, Wanted] = {}
        self.arrays: dict[str, Wanted] = {}
        self.crons: dict[str, Wanted] = {}
        self._others: dict[str, type[Resource]] = {}
        """What is neither a job nor a partition, by name."""
        self.minutes: dict[str, list[int]] = {}
        """uid of a cron job -> the minutes, since 1970, at which a job of it is due."""
        self.dropped: set[str] = set()
        """uids of jobs of arrays that people deleted."""
        self.specs: dict[str, dict[str, Any]] = {}
        """uid -> spec, of everything that people ever made and of jobs that were made for them, as they changed it
        last."""
        self.foreign = 0
        self.overused: set[str] = set()
        """uids of jobs whose programs took more than was leased, if any ran: their end depends on when."""
        self.overusers: set[str] = set()
        """Names of the workloads that were ended for it."""
        self._waiting: dict[str, deque[Action]] = {}
        self._looks: set[str] = set()
        """The jobs at which somebody looks again later, to ask for them."""
        self._unparked: set[tuple[str, str]] = set()
        """uid of a partition, and since when it was parked when somebody asked for its job."""

    def act(self, action: Action) -> None:
        """Do it, after what is still to be done with that object: a name can be used again when its object is gone."""
        queue = self._waiting.setdefault(action.name, deque())
        queue.append(action)
        if len(queue) == 1:
            self._go_on(action.name)

    @property
    def busy(self) -> bool:
        """Whether something is still to be done."""
        return any(self._waiting.values())

    def _go_on(self, name: str) -> None:
        queue = self._waiting[name]
        while queue:
            action = queue[0]
            try:
                said = getattr(self, f"_{action.verb}")(action, dict(action.fields))
            except AlreadyExists:
                self._sim.at(self._sim.now() + AGAIN_SECONDS, lambda: self._go_on(name))
                return
            except CumulusError as error:
                said = f"refused: {error}"
            self._sim.note(f"{action.verb} {name} {said or ''}".rstrip(), "people")
            queue.popleft()

    def _create(self, action: Action, fields: dict[str, Any]) -> str:
        assert action.program is not None
        command = f"program-{len(self._sim.programs)}"
        self._sim.programs[command] = action.program
        spec = GPUJobSpec(**_job_fields(command, fields))
        meta = ObjectMeta(
            name=action.name, namespace=NAMESPACE, labels={"made-by": "people"}, annotations=_by(fields),
        )  # fmt: skip
        made = self._client.create(GPUJob(metadata=meta, spec=spec))
        self.jobs[action.name] = self._wanted(made, action.program)
        return str(dict(action.fields))

    def _partition(self, action: Action, fields: dict[str, Any]) -> str:
        spec: dict[str, Any] = {"memory": fields["memory"], "duration": f"{fields['duration']}s"}
        if "maximum" in fields:
            spec["renewal"] = Renewal(policy="WhileIdle", maximum=f"{fields['maximum']}s")
        meta = ObjectMeta(name=action.name, namespace=NAMESPACE)
        made = self._client.create(GPUPartition(metadata=meta, spec=GPUPartitionSpec(**spec)))
        self.partitions[action.name] = self._wanted(made)
        return str(spec)

    def _change(self, action: Action, fields: dict[str, Any]) -> str:
        job = self._client.get(GPUJob, NAMESPACE, action.name)
        if job.deleting:
            return "is being deleted"
        made = self._client.update(job.replace(spec=job.spec.model_copy(update=fields)))
        self.specs[made.uid] = _spec(made)
        wanted = self.jobs.get(action.name)
        if wanted is not None and wanted.uid == made.uid:
            wanted.spec = self.specs[made.uid]
        return str(fields)

    def _delete(self, action: Action, fields: dict[str, Any]) -> str:
        model: type[Resource] = GPUJob if action.name in self.jobs else GPUPartition
        model = self._others.get(action.name, model)
        found = self._client.get(model, NAMESPACE if model.NAMESPACED else "", action.name)
        self._client.delete(found)
        for wanted in (self.jobs, self.partitions, self.arrays, self.crons):
            wanted.pop(action.name, None)
        return ""

    def _queue(self, action: Action, fields: dict[str, Any]) -> str:
        self._client.create(Queue(metadata=ObjectMeta(name=action.name), spec=QueueSpec.model_validate(fields)))
        return str(fields)

    def _reserve(self, action: Action, fields: dict[str, Any]) -> str:
        self._others[action.name] = Reservation
        start = timestamp(datetime.fromtimestamp(self._sim.epoch + fields["start"], UTC))
        spec = ReservationSpec.model_validate(fields | {"start": start})
        self._client.create(Reservation(metadata=ObjectMeta(name=action.name), spec=spec))
        return str(fields)

    def _array(self, action: Action, fields: dict[str, Any]) -> str:
        self._others[action.name] = GPUJobArray
        spec = GPUJobArraySpec(
            indexes=fields["indexes"], parallelism=fields["parallelism"], job_template=self._template(action, fields),
            successful_jobs_history_limit=fields["kept"], failed_jobs_history_limit=fields["kept"],
        )  # fmt: skip
        meta = ObjectMeta(name=action.name, namespace=NAMESPACE, annotations=_by(fields))
        made = self._client.create(GPUJobArray(metadata=meta, spec=spec))
        self.arrays[action.name] = self._wanted(made, action.program)
        return str(fields)

    def _cron(self, action: Action, fields: dict[str, Any]) -> str:
        """Due at the full minutes that are given, in minutes since the run began."""
        self._others[action.name] = GPUCronJob
        spec = GPUCronJobSpec(
            schedule=f"{','.join(map(str, fields['minutes']))} 0 1 1 *", concurrency_policy=fields["policy"],
            starting_deadline_seconds=fields.get("deadline"), job_template=self._template(action, fields),
        )  # fmt: skip
        meta = ObjectMeta(name=action.name, namespace=NAMESPACE, annotations=_by(fields))
        made = self._client.create(GPUCronJob(metadata=meta, spec=spec))
        self.crons[action.name] = self._wanted(made, action.program)
        self.minutes[made.uid] = [int(self._sim.epoch) // 60 + minute for minute in fields["minutes"]]
        return str(fields)

    def _template(self, action: Action, fields: dict[str, Any]) -> JobTemplate:
        assert action.program is not None
        command = f"program-{len(self._sim.programs)}"
        self._sim.programs[command] = action.program
        metadata = TemplateMeta(annotations=_by(fields))
        return JobTemplate(metadata=metadata, spec=GPUJobSpec(**_job_fields(command, fields)))

    def _adjust(self, action: Action, fields: dict[str, Any]) -> str:
        """Change an array or a cron job."""
        model = self._others.get(action.name)
        if model is None:
            # Who shrinks a schedule left out what makes it.
            return "was never made"
        made = self._client.get(model, NAMESPACE, action.name)
        if made.deleting:
            return "is being deleted"
        spec = made.spec.model_copy(update=fields)  # type: ignore[attr-defined]
        made = self._client.update(made.replace(spec=spec))
        wanted = self.arrays.get(action.name) or self.crons.get(action.name)
        if wanted is not None:
            wanted.spec = _spec(made)
        return str(fields)

    def _drop(self, action: Action, fields: dict[str, Any]) -> str:
        """Delete a job that an array has made."""
        job = self._client.get(GPUJob, NAMESPACE, fields["job"])
        self._client.delete(job)
        self.dropped.add(job.uid)
        return str(fields["job"])

    def _unpark(self, action: Action, fields: dict[str, Any]) -> str:
        """Ask for a job that was parked without being asked, once each time: as with `cumulus unpark`, nothing is asked
        of one that is not parked. It may be so later, so that people look again."""
        job = self._client.get(GPUJob, NAMESPACE, action.name)
        if job.status.phase.finished:
            return "is over"
        if action.name not in self._looks:
            self._looks.add(action.name)
            self._sim.at(self._sim.now() + UNPARK_SECONDS, lambda: self._look_again(action.name))
        parked = {
            (p.uid, p.status.parked.since)
            for p in self._client.list(GPUPartition)
            if p.status.parked is not None and any(owner.uid == job.uid for owner in p.metadata.owner_references)
        }
        if job.spec.park or job.status.phase is not JobPhase.PARKED or parked <= self._unparked:
            return "needs nobody"
        self._unparked |= parked
        annotations = job.metadata.annotations | {UNPARK_REQUESTED: str(action.at)}
        self._client.update(job.replace(metadata=job.metadata.model_copy(update={"annotations": annotations})))
        return ""

    def _look_again(self, name: str) -> None:
        self._looks.discard(name)
        self.act(Action(self._sim.now(), "unpark", name))

    def _release(self, action: Action, fields: dict[str, Any]) -> str:
        """Delete a job's partition by hand."""
        job = self._client.get(GPUJob, NAMESPACE, action.name)
        owned = [
            p for p in self._client.list(GPUPartition) if any(o.uid == job.uid for o in p.metadata.owner_references)
        ]
        live = [p for p in owned if not p.status.phase.ended and not p.deleting]
        if not live:
            return "has no partition"
        self._client.delete(live[-1])
        return live[-1].metadata.name

    def _overuse(self, action: Action, fields: dict[str, Any]) -> str:
        """Its processes, if it has any on a GPU, take more than it leased: their node sees to that alone, reachable or
        not."""
        job = self._client.get(GPUJob, NAMESPACE, action.name)
        self.overused.add(job.uid)
        for run in self._sim.backend.alive(job.uid):
            lease, node = run.workload.leases[0], self._sim.leases[run.workload.node]
            try:
                node.overuse(lease.id, lease.memory_bytes + 1)
            except ChronosError:
                continue
            if node.why_ended(lease.id) is EndReason.OVERUSED:
                self.overusers.add(run.workload.name)
            return run_name(run)
        return "has no program on a GPU"

    def _lose(self, action: Action, fields: dict[str, Any]) -> str:
        """Its node will not be able to bring back what it parks of the job now."""
        job = self._client.get(GPUJob, NAMESPACE, action.name)
        for partition in self._client.list(GPUPartition):
            if any(owner.uid == job.uid for owner in partition.metadata.owner_references) and partition.status.node:
                self._sim.leases[partition.status.node].fail_unpark(partition.uid)
        return ""

    def _cordon(self, action: Action, fields: dict[str, Any]) -> str:
        node = self._client.get(GPUNode, "", action.name)
        self._client.update(node.replace(spec=node.spec.model_copy(update=fields)))
        return str(fields)

    def _lease(self, action: Action, fields: dict[str, Any]) -> str:
        """As with chronos_cli on the node."""
        node = self._sim.leases[action.name]
        reachable, node.reachable = node.reachable, True
        self.foreign += 1
        size = int(node.capacity(fields["device"]) * fields["memory"])
        try:
            node.grant(
                LeaseRequest(
                    id=f"by-hand-{self.foreign}", device=fields["device"], memory_bytes=size,
                    compute=int(1000 * fields["memory"]), seconds=fields["seconds"], grace=1.0,
                )
            )  # fmt: skip
        except ChronosError as error:
            return f"refused: {error}"
        finally:
            node.reachable = reachable
        return str(fields)

    def _wanted(self, made: Resource, program: Program | None = None) -> Wanted:
        self.specs[made.uid] = _spec(made)
        return Wanted(made.uid, self.specs[made.uid], program)


def _by(fields: dict[str, Any]) -> dict[str, str]:
    """The annotations by which the service says who made an object, and in which queue it waits."""
    found = {SUBMITTER: fields.get("user"), QUEUE: fields.get("queue")}
    return {name: value for name, value in found.items() if value}


def _job_fields(command: str, fields: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "command": (command,),
        "gpu": GPU(memory=fields["memory"], duration=f"{fields['duration']}s", count=fields["count"]),
        "replicas": fields["replicas"],
        "priority": fields["priority"],
        "retry": RetryPolicy(limit=fields["limit"], backoff=fields["backoff"]),
        "suspend": fields.get("suspend", False),
        "ttl_after_finished": fields.get("ttl"),
    }
    if fields.get("checkpoint"):
        ends = "Park" if fields.get("parks") else "Requeue"
        spec["checkpoint"] = Checkpoint(path="/c", grace_period=f"{GRACE:g}s", on_expiry=ends)
    if fields.get("kill"):
        spec["preemptible"] = Preemptible.KILL
    if "idle" in fields:
        spec["idle"] = Idle(after=f"{fields['idle_after']:g}s", action=fields["idle"])
    return spec


def _spec(made: Resource) -> dict[str, Any]:
    spec: dict[str, Any] = made.to_json()["spec"]
    return spec
