"""Realistic bugs, planted one at a time, to show that the simulation finds them.

A mutant is an edit of one function's source. It is compiled in its module and put in the function's place for as long
as the context lasts; one whose text is not there any more does not apply, and says so.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cumulus.controllers import partition_facts
from cumulus.controllers.array import plan as array_plan
from cumulus.controllers.binding import controller as binding
from cumulus.controllers.binding import promised
from cumulus.controllers.cron import controller as cron
from cumulus.controllers.cron import plan as cron_plan
from cumulus.controllers.gc import controller
from cumulus.controllers.job import controller as job
from cumulus.controllers.job import ending, objects, parking, plan
from cumulus.controllers.job import outcome as job_outcome
from cumulus.controllers.job import view as job_view
from cumulus.controllers.partition import controller as partition
from cumulus.controllers.partition import plan as partition_plan
from cumulus.machinery.informer import Informer
from cumulus.machinery.leader import Elector
from cumulus.nodes.clocks import NodeClock
from cumulus.resources import job_partitions
from cumulus.scheduling import claim, limits, promises, quota, reclaim, windows
from cumulus.store import rules
from cumulus.testing.backend import FakeBackend
from cumulus.testing.leases import FakeLeases
from tests.sim.check import check
from tests.sim.simulation import Outcome


@dataclass(frozen=True)
class Mutant:
    name: str
    says: str
    """What the programmer did wrong."""
    function: Callable[..., Any]
    old: str
    new: str
    kind: str = "jobs"
    """Of the schedules that show it."""


MUTANTS = (
    Mutant(
        "no-fencing", "the store does not check the fence of a write",
        rules.check_fence, "held != fence.token", "False",
    ),
    Mutant(
        "lapsed-term-revives", "a renewal that comes after the term is over makes it go on",
        Elector._renew, "in_time = self._held is not None and self._clock.monotonic() < self._deadline",
        "in_time = self._held is not None",
    ),
    Mutant(
        "status-before-action", "a job is said to run before its workloads are started",
        job.JobReconciler._advance, "    if plan.start:\n",
        "    if plan.start:\n"
        "        early = plan.status.model_copy(update={'phase': type(plan.status.phase)('Running')})\n"
        "        job = self._client.update_status(job.replace(status=early))\n"
        "        view = self._view(job, view.partitions, view.replicas)\n",
    ),
    Mutant(
        "blind-write",
        "a job's finalizer is written with the job as it was, whatever was changed since",
        job.JobReconciler._begin,
        'Write("update", with_finalizer(document, JOB_FINALIZER))',
        'Write("update", unversioned(with_finalizer(document, JOB_FINALIZER)))',
    ),
    Mutant(
        "versions-not-compared",
        "the store takes a write that was made from an old version",
        rules._check_preconditions,
        "version and version != metadata[\"resourceVersion\"]",
        "False",
    ),
    Mutant(
        "no-second-look", "workloads are started without a second look at the job",
        job.JobReconciler._start, "!= (job.uid, job.metadata.resource_version)", "== ()",
    ),
    Mutant(
        "attempt-number-twice", "an attempt that never started gives its number to the next",
        plan._begin, "status.attempt_count + 1",
        "status.attempt_count + (not status.attempts or status.attempts[-1].start_time is not None)",
    ),
    Mutant(
        "start-too-early", "a replica is started when one of the gang's partitions is Active",
        plan._going_on, "active = all(", "active = any(",
    ),
    Mutant(
        "share-free-at-sigterm", "a node gives a share away when its processes get SIGTERM, not when they are gone",
        FakeLeases.settle, " and all(holder.ends() <= now for holder in held.holders)", "",
    ),
    Mutant(
        "finalizer-too-early", "a partition goes when the node has begun to end its lease",
        partition_plan.plan, "return PartitionPlan(_ending(partition, answer, now), wake=ENDING_POLL)",
        "return PartitionPlan(_ending(partition, answer, now), finish=releasing, wake=ENDING_POLL)",
    ),
    Mutant(
        "absence-from-the-cache",
        "a lease whose partition the cache does not know is taken for a leftover",
        controller.SweepReconciler._sweep_leases,
        "if lease.id not in wanted:",
        "if True:",
    ),
    Mutant(
        "unreachable-is-dead", "a workload whose node does not answer is taken to have ended",
        job_view.alive, "isinstance(replica, Unknown) or ", "",
    ),
    Mutant(
        "node-clock-believed", "the end of a lease is read as its node's own clock tells it",
        NodeClock.on_ours, "expires_at=timestamp(times.ends)", "expires_at=lease.expires_at",
    ),
    Mutant(
        "back-and-failed-is-lost",
        "a program that came back from main memory and failed is taken for one that could not be brought back",
        ending.cause,
        "    failed = None if _failed_on_its_way_back(view, held) else _failure(replicas, held)\n",
        "    if _failed_on_its_way_back(view, held):\n"
        "        return _not_brought_back(view.job)\n"
        "    failed = _failure(replicas, held)\n",
    ),
    Mutant(
        "unseen-in-memory-is-dead",
        "a program that its node parked while nobody could see it is taken to have ended with its lease",
        partition_facts.latest_end,
        "if _may_be_parked(partition) and spec.park is not None:",
        "if False:",
    ),
    Mutant(
        "relist-keeps-the-gone", "a relist does not notice what was deleted meanwhile",
        Informer.relist, "if key not in found and self._lose(key, revision):", "if False:",
    ),
    Mutant(
        "failure-counted-for-nothing", "a stop from outside counts against the job's retries",
        job_outcome.end_attempt, "if retry.disruption:", "if False:",
    ),
    Mutant(
        "lease-named-after-partition",
        "a lease's id is its partition's name, which another may have had before",
        partition_plan.lease_request,
        "id=partition.uid",
        "id=partition.metadata.name",
    ),
    Mutant(
        "workload-named-without-uid",
        "a workload's name is not its job's alone",
        objects.workload_name,
        ".{job.uid.replace('-', '')[:8]}-a",
        "-a",
    ),
    Mutant(
        "two-transactions",
        "an attempt is recorded in one transaction, its partitions are made in the next",
        job.JobReconciler._begin,
        "    self._client.store.transact(writes, fence=self._client.fence)",
        "    self._client.store.transact(writes[-1:], fence=self._client.fence)\n"
        "    self._client.store.transact(writes[:-1], fence=self._client.fence)",
    ),
    Mutant(
        "leftovers-not-removed",
        "what a crash left on the backend is not looked for",
        controller.SweepReconciler._sweep_workloads,
        "in backend.list():",
        "in []:",
    ),
    Mutant(
        "late-start-blamed",
        "a start that came after its lease's end is taken for the job's failure",
        FakeBackend._attach,
        "if (why := next((reason for reason in _ENDS if reason in ended), None)) is not None:",
        "if False:",
    ),
    Mutant(
        "start-given-up",
        "nobody looks again at a workload whose node did not answer",
        plan._wake,
        "if any(isinstance(replica, Unknown) for replica in view.replicas):",
        "if False:",
    ),
    Mutant(
        "no-sweep",
        "leases that a deposed daemon still asked for are left to themselves",
        controller.SweepReconciler._sweep_leases,
        "if lease.id not in wanted:",
        "if False:",
    ),
    Mutant(
        "silent-end",
        "a job that ends says so in its status alone",
        plan.plan,
        "if made.status.phase.finished:",
        "if False:",
    ),
    Mutant(
        "hand-over-too-early",
        "the attempt that was queued ahead begins though the last one still runs",
        plan._during,
        "if alive:",
        "if alive and view.job.status.next is None:",
    ),
    Mutant(
        "next-attempt-left-behind",
        "the shares of the attempt that was queued ahead are kept though it is not needed",
        plan._without_next,
        "discard = tuple(partition for partition in view.held(status.next) if not partition.deleting)",
        "discard = ()",
    ),
    Mutant(
        "parked-too-early", "a share is said to be free while its program is still on its way to main memory",
        partition_plan.plan, "case Lease(state=LeaseState.PARKED):",
        "case Lease(state=LeaseState.PARKED | LeaseState.PARKING):",
    ),
    Mutant(
        "parked-is-said-to-run", "a job whose program is in main memory is said to run",
        plan._going_on, "held[0].status.phase.parked", "False",
    ),
    Mutant(
        "back-without-a-share", "a parked program is brought back without asking the queue",
        partition.PartitionReconciler._ask, "if partition.status.phase is PartitionPhase.UNPARKING:",
        "if partition.status.phase.parked and not partition.to_be_parked:",
    ),
    Mutant(
        "never-back", "a parked program that is to come back is in no queue",
        claim.claim_of, "pending=partition.waits", "pending=status.phase is PartitionPhase.PENDING",
    ),
    Mutant(
        "back-by-an-old-token", "a node is not told which grant of a parked program is meant",
        partition.PartitionReconciler._unpark, "token=token", "token=None",
    ),
    Mutant(
        "parked-holds", "a parked partition counts as a share that is taken",
        claim.claim_of, "holding=status.phase.holds", "holding=not status.phase.ended and status.device is not None",
    ),
    Mutant(
        "expiry-late",
        "a node ends a lease some seconds after its time",
        FakeLeases._granted,
        "self._clock.monotonic() + ends_in",
        "self._clock.monotonic() + ends_in + 15",
    ),
    Mutant(
        "limit-not-held", "a queue that holds all that it may gets more",
        limits._Limits._needed, "return found[1]", "return [0 for _ in found[1]]", kind="shared",
    ),
    Mutant(
        "taken-from-its-own", "a queue has to give up what it is sure of",
        quota._Lent._can_spare, "return all(", "return True or all(", kind="shared",
    ),
    Mutant(
        "taken-at-once", "a job keeps what it borrows for no time at all",
        quota._Lent._lender, "hold.since + least for hold", "hold.since for hold", kind="shared",
    ),
    Mutant(
        "taken-from-who-keeps-nothing", "a job yields that keeps no checkpoint and did not say Kill",
        job_partitions.preemptible, "if job.spec.preemptible is Preemptible.KILL else None", "", kind="shared",
    ),
    Mutant(
        "taken-without-a-save", "a job whose share is taken back gets no time to save",
        plan._stopping, "_stop_grace(view, shares_of(held, r))",
        "(0.0 if cause.reason == 'Preempted' else _stop_grace(view, shares_of(held, r)))", kind="shared",
    ),
    Mutant(
        "taken-back-twice", "a share that is taken back is taken back again",
        claim._returning, "None if said is None else Returning(datetime.fromisoformat(said.at), said.gang)", "None",
        kind="shared",
    ),
    Mutant(
        "spared-too-late", "a job that was asked to end already is told that it keeps its share",
        reclaim.spared, " or hold.returning.at <= snapshot.now", "", kind="shared",
    ),
    Mutant(
        "ended-though-kept", "a job is ended for a share that it was told meanwhile to keep",
        job.JobReconciler._partitions,
        "partition if partition.status.reclaim is None else as_stored(store, partition)", "partition", kind="shared",
    ),
    Mutant(
        "yields-and-takes", "a job that had to yield has others yield for it",
        quota._Lent.within, "gang.yielded or ", "", kind="shared",
    ),
    Mutant(
        "mark-outlives-parking", "a job that was parked for another queue's is ended for it, too",
        partition_plan._parked, '"reclaim": None,', "", kind="shared",
    ),
    Mutant(
        "yielding-not-counted", "a job that had to yield does not know of it",
        job_outcome.end_attempt, "(status.preemptions or 0) + 1", "status.preemptions", kind="shared",
    ),
    Mutant(
        "reserved-for-all", "devices that are held for some are free for everybody",
        windows.Windows.of, "if window.admits(*place)", "if True", kind="shared",
    ),
    Mutant(
        "renewed-into-a-reservation", "a lease is renewed into a time for which its device is held",
        partition.PartitionReconciler._renew, "seconds if free is None else min(seconds, free)", "seconds",
        kind="shared",
    ),
    Mutant(
        "promise-not-kept", "the seats of a promise are not put aside",
        promises.Promises._keep_in_time, "return any(", "return True or any(", kind="shared",
    ),
    Mutant(
        "moved-in-silence", "nobody is told that a promise moved later",
        promised.tell_of_late, "if one.cause is None:", "if True:", kind="shared",
    ),
    Mutant(
        "moved-in-silence-within-a-quota", "why a promise moved is forgotten where others move for that one",
        promises.Promises.take_back, "self._still_late(gang, start)", "None", kind="shared",
    ),
    Mutant(
        "held-in-silence", "what reservations hold is written after others got what they held before",
        binding.BindingReconciler.reconcile,
        "    if not self._hold(planned):\n"
        "        return RequeueAfter(VISIBLE_WITHIN)\n"
        "    bound = self._bind_all(list(_gangs(cycle.bindings)), counts=bool(book.tree))\n",
        "    bound = self._bind_all(list(_gangs(cycle.bindings)), counts=bool(book.tree))\n"
        "    if not self._hold(planned):\n"
        "        return RequeueAfter(VISIBLE_WITHIN)\n",
        kind="shared",
    ),
    Mutant(
        "first-come-holds", "what holds a device goes before what holds its whole node, if it was there first",
        windows._order, "spec.devices is not None, ", "", kind="shared",
    ),
    Mutant(
        "forgotten-index-runs-again", "an index whose job is not kept is taken for one that had none",
        array_plan.plan, "succeeded = (recorded[0] - there) |", "succeeded =", kind="shared",
    ),
    Mutant(
        "deleted-index-runs-again", "an index whose job was deleted is taken for one that had none",
        array_plan.plan, "| gone |", "|", kind="shared",
    ),
    Mutant(
        "more-than-parallelism", "an array makes so many jobs each time, whatever runs",
        array_plan.plan, "spec.parallelism - len(active)", "spec.parallelism", kind="shared",
    ),
    Mutant(
        "failures-counted-as-success", "an array counts each job that is over as one that succeeded",
        array_plan.plan, "phase if phase is JobPhase.SUCCEEDED else JobPhase.FAILED", "JobPhase.SUCCEEDED",
        kind="shared",
    ),
    Mutant(
        "cron-in-two-transactions", "that a job was made is written first, the job is made in the next transaction",
        cron.CronReconciler._make, '    own.append(Write("status", cron.replace(status=wanted.status).to_json()))\n',
        "    write_status(self._client, cron.replace(status=wanted.status))\n", kind="shared",
    ),
    Mutant(
        "cron-forbids-nothing", "a job by a schedule is made though an earlier one goes on",
        cron_plan.plan, "if live and spec.concurrency_policy is ConcurrencyPolicy.FORBID:", "if False:", kind="shared",
    ),
    Mutant(
        "cron-replaces-nothing", "a job by a schedule leaves the one that it replaces",
        cron_plan.plan, "if spec.concurrency_policy is ConcurrencyPolicy.REPLACE:", "if False:", kind="shared",
    ),
    Mutant(
        "left-out-too-early", "a job by a schedule is left out before its deadline is over",
        cron_plan._since, "timedelta(seconds=deadline)", "timedelta(seconds=deadline / 4)", kind="shared",
    ),
    Mutant(
        "left-out-in-silence", "nobody is told that a job by a schedule is left out",
        cron_plan.plan, "told=((EventReason.MISS_SCHEDULE, message),)", "told=()", kind="shared",
    ),
    Mutant(
        "turn-at-once", "a turn is over as soon as somebody waits",
        job.JobReconciler._turn, "had >= length and ", "", kind="shared",
    ),
    Mutant(
        "turn-for-nobody", "a turn is over though nobody waits",
        job.JobReconciler._turn, "had >= length and waited_for(self._reader, partition, now)", "had >= length",
        kind="shared",
    ),
    Mutant(
        "idle-before-it-came", "a job is idle for as long as its GPU was before it had it",
        parking.idle_for, "max(view.idle_since, *begun)", "view.idle_since", kind="shared",
    ),
    Mutant(
        "idle-before-it-came-back", "a job that was parked is idle for as long as its node took to bring it back",
        parking.on_gpu_since, "(status.activated_at, attempt.start_time, back)",
        "(status.activated_at, attempt.start_time)", kind="shared",
    ),
    Mutant(
        "parked-is-released", "a share is taken back though its program came to main memory, which is not written yet",
        partition.PartitionReconciler._release, "lease.state is LeaseState.PARKED", "False", kind="shared",
    ),
    Mutant(
        "gang-bound-in-part", "of a gang the first partition alone is bound",
        binding.BindingReconciler._bind, "(binding for gang in gangs for binding in gang)",
        "(gang[0] for gang in gangs)",
    ),
    Mutant(
        "parked-for-ever", "a program that was parked for another queue's job does not come back",
        parking._stays, "if park is None or _held(job):", "if True:", kind="shared",
    ),
)  # fmt: skip


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The bug is there inside the context. Raises ValueError where the source is not what the mutant expects."""
    source = textwrap.dedent(inspect.getsource(mutant.function))
    if source.count(mutant.old) != 1:
        raise ValueError(f"the mutant {mutant.name} does not apply: {mutant.function.__qualname__} has changed")
    text = source.replace(mutant.old, mutant.new)
    namespace: dict[str, Any] = {}
    exec(
        compile("from __future__ import annotations\n" + text, mutant.name, "exec"),
        dict(mutant.function.__globals__),
        namespace,
    )
    made = namespace[mutant.function.__name__]
    made = getattr(made, "fget", made)
    real = mutant.function.__code__
    mutant.function.__code__ = made.__code__
    try:
        yield
    finally:
        mutant.function.__code__ = real


def named(name: str) -> Mutant:
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def hunt(name: str, within: int, first: int = 0) -> Outcome | None:
    """With that mutant planted: the first outcome, of at most `within` seeds, that finds it. None where none does.
    The seed `first` is tried before all others.

    A seed that fails without the mutant too finds something else, and does not count.
    """
    mutant = named(name)
    for seed in (first, *(seed for seed in range(within) if seed != first)):
        with planted(mutant):
            outcome = check(seed, mutant.kind)
        if outcome.violation and not check(seed, mutant.kind).violation:
            return outcome
    return None
