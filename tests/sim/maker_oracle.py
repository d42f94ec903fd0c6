"""What must never be of arrays and of jobs by a schedule: each index and each time has its job once, and what is said
of them is so."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from cumulus.clock import parse_timestamp
from cumulus.resources import index_ranges
from cumulus.resources.job_array import INDEX
from cumulus.store.codec import DELETED
from tests.sim.truth import Doc, Violation, clocks_wrong, finished, phase_of

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

MAKERS = ("GPUJobArray", "GPUCronJob")

INFORMER_SECONDS = 2.0
"""How late an informer that is late by chance may show that a job is over."""


def maker_of(job: Doc) -> str:
    """uid of the array or cron job that made it, "" where people did."""
    owners = job["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner["kind"] in MAKERS), "")


class MakerOracle:
    """`docs`: (kind, uid) -> the last state of jobs, shared with the other oracles."""

    def __init__(self, sim: Simulation, docs: dict[tuple[str, str], Doc]) -> None:
        self._sim = sim
        self._docs = docs
        self.made: defaultdict[str, dict[int, str]] = defaultdict(dict)
        """uid of an array or cron job -> index, or minute -> uid of its job."""
        self._began: dict[str, float] = {}
        self._over: dict[str, float] = {}
        """uid of a job of these -> when it was made, and when it was over or gone."""
        self.left_out: defaultdict[str, set[int]] = defaultdict(set)
        """uid of a cron job -> the minutes whose jobs are said to be left out."""
        self._makers: dict[str, Doc] = {}
        self._new: list[str] = []
        """Cron jobs of which a job was made in the transaction that is being looked at."""

    def committed(self, type: int, document: Doc) -> None:
        """An array or a cron job was written, just now."""
        uid, old = document["metadata"]["uid"], self._makers.get(document["metadata"]["uid"])
        self._makers[uid] = document
        if type == DELETED:
            document["gone"] = True
            return
        if document["kind"] == "GPUJobArray" and old is not None and old.get("status") != document.get("status"):
            self._sim.note(f"{document['metadata']['name']}: {_line(document.get('status') or {})}")
            self._summary(document, old.get("status") or {}, document.get("status") or {})
        missed = (document.get("status") or {}).get("missedTime")
        if missed and missed != ((old or {}).get("status") or {}).get("missedTime"):
            self._left_out(document, int(parse_timestamp(missed).timestamp()) // 60)

    def job_made(self, job: Doc) -> None:
        """One of them made a job, just now: as its template says, once, and not too many at once."""
        maker, name = self._makers[maker_of(job)], job["metadata"]["name"]
        key = int(name.rpartition("-")[2])
        mine = self.made[maker["metadata"]["uid"]]
        if key in mine:
            raise Violation("made twice", f"{name} is made, and was before")
        others = [uid for uid in mine.values() if self._lives(uid)]
        mine[key] = job["metadata"]["uid"]
        self._began[mine[key]] = self._sim.now()
        self._check_spec(maker, job, key)
        if maker["kind"] == "GPUJobArray":
            if len(others) >= maker["spec"].get("parallelism", 10):
                raise Violation("array", f"{name} is made beside {len(others)} others that are not over")
            if key not in indexes_of(maker["spec"]["indexes"]):
                raise Violation("array", f"{name} is made, which was not asked for")
            return
        self._new.append(maker["metadata"]["uid"])
        if key not in self._sim.model.minutes[maker["metadata"]["uid"]]:
            raise Violation("cron", f"{name} is made for a time at which none is due")
        due = key * 60 - self._sim.epoch
        if self._sim.now() < due - clocks_wrong(self._sim) - 0.01:
            raise Violation("cron", f"{name} is made at {self._sim.now():.1f}, and due at {due:g}")
        if maker["spec"].get("concurrencyPolicy") == "Forbid" and others:
            raise Violation("cron", f"{name} is made while another one is not over")

    def job_over(self, job: Doc) -> None:
        """A job that one of them made ended or went, just now or before."""
        self._over.setdefault(job["metadata"]["uid"], self._sim.now())

    def _left_out(self, cron: Doc, minute: int) -> None:
        """It says that no job is made for that minute: its deadline is over. Without faults, and where nobody
        paused it, another of its jobs was in the way until then."""
        sim, uid, name = self._sim, cron["metadata"]["uid"], f"{cron['metadata']['name']}-{minute}"
        self.left_out[uid].add(minute)
        deadline = cron["spec"].get("startingDeadlineSeconds")
        if deadline is None:
            raise Violation("cron", f"{name} is left out, and has no deadline")
        if minute in self.made[uid]:
            raise Violation("cron", f"{name} is left out, and was made")
        due = minute * 60 - sim.epoch
        if sim.now() < due + deadline - clocks_wrong(sim) - 0.01:
            raise Violation("cron", f"{name} is left out at {sim.now():.1f}, and may be made until {due + deadline:g}")
        if sim.schedule.faults or paused(cron["metadata"]["name"], sim):
            return
        due -= sim.stack[-1].clock.offset
        late = INFORMER_SECONDS if sim.schedule.sluggish else 0.01
        in_the_way = cron["spec"].get("concurrencyPolicy") == "Forbid" and any(
            self._began[job] <= due and self._over.get(job, sim.now()) >= due + deadline - late
            for job in self.made[uid].values()
        )
        if not in_the_way:
            raise Violation("cron", f"{name} is left out, and nothing was in its way until {due + deadline:g}")

    def all_committed(self) -> None:
        """The transaction is over: what a job takes the place of is on its way out."""
        for maker in self._new:
            if self._makers[maker]["spec"].get("concurrencyPolicy") != "Replace":
                continue
            live = [uid for uid in self.made[maker].values() if self._lives(uid)]
            going = [uid for uid in live if self._docs["GPUJob", uid]["metadata"].get("deletionTimestamp")]
            if len(live) - len(going) > 1:
                raise Violation("cron", f"{self._makers[maker]['metadata']['name']} runs beside what it is to replace")
        self._new.clear()

    def _lives(self, uid: str) -> bool:
        job = self._docs.get(("GPUJob", uid))
        return job is not None and not job.get("gone") and not finished(job)

    def _check_spec(self, maker: Doc, job: Doc, key: int) -> None:
        """The template's, and of an array its index."""
        wanted = dict(maker["spec"]["jobTemplate"]["spec"])
        said = dict(job["spec"])
        env = {each["name"]: each.get("value") for each in said.pop("env", ())}
        wanted.pop("env", None)
        if said != wanted or (maker["kind"] == "GPUJobArray" and env.get(INDEX) != str(key)):
            raise Violation("lost change", f"{job['metadata']['name']} is not as its template says")
        self._sim.model.specs[job["metadata"]["uid"]] = job["spec"]

    def _summary(self, array: Doc, before: Doc, status: Doc) -> None:
        """What is said of an array is so of each index."""
        name = array["metadata"]["name"]
        wanted = indexes_of(array["spec"]["indexes"])
        succeeded, failed, active = (indexes_of(status.get(part, "")) for part in _PARTS)
        if succeeded & failed or (succeeded | failed) & active:
            raise Violation("array", f"{name} counts an index twice: {_line(status)}")
        if len(succeeded) + len(failed) + len(active) + status.get("waiting", 0) != len(wanted):
            raise Violation("array", f"{name} does not count each index: {_line(status)}")
        made = self.made[array["metadata"]["uid"]]
        for index in succeeded | failed | active:
            job = self._docs.get(("GPUJob", made.get(index, "")))
            if job is None:
                raise Violation("array", f"{name}: index {index} has never had a job")
            if index in succeeded and phase_of(job) != "Succeeded":
                raise Violation("array", f"{name}: index {index} is said to have succeeded, and is {phase_of(job)}")
            if index in failed and phase_of(job) != "Failed" and not job.get("gone"):
                raise Violation("array", f"{name}: index {index} is said to have failed, and is {phase_of(job)}")
        for part, now in (("succeeded", succeeded), ("failed", failed)):
            if indexes_of(before.get(part, "")) - now:
                raise Violation("array", f"{name} forgot that indexes {before[part]} {part}")
        over = len(succeeded) + len(failed) == len(wanted)
        phase = ("Failed" if failed else "Succeeded") if over else None
        if (phase or status["phase"]) != status["phase"] or (phase is None and status["phase"] in _OVER):
            raise Violation("array", f"{name} is {status['phase']}: {_line(status)}")


def paused(name: str, sim: Simulation) -> bool:
    """Whether people suspend that cron job for a while."""
    return any(action.name == name and action.verb == "adjust" for action in sim.schedule.actions)


def indexes_of(text: str) -> frozenset[int]:
    return frozenset(index_ranges.parse(text))


_PARTS = ("succeeded", "failed", "active")
_OVER = ("Succeeded", "Failed")


def _line(status: dict[str, Any]) -> str:
    parts = " ".join(f"{part}={status[part]}" for part in _PARTS if status.get(part))
    return f"{status.get('phase', 'Running')} waiting={status.get('waiting', 0)} {parts}".rstrip()
