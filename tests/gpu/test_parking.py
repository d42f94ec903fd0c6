"""Parking on a real NVIDIA driver, as root, on a GPU of its own."""

from __future__ import annotations

import importlib.util
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos import monitor_control
from cumulus.chronos.contract import Device, EndReason, Lease, LeaseRequest, LeaseState, Proof, variables
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.chronos.contract.variables import MPS_MODE
from cumulus.chronos.enforce import environment
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.parking import memory, rows
from cumulus.chronos.parking.self_test import FRAMEWORKS, SelfTest
from cumulus.lib import cgroup
from cumulus.resources.enforcement import Sharing
from cumulus.resources.reasons import ParkingReason
from tests.s3 import free_ports

from .conftest import GIB, HERE, Node, Program, memory_used, until
from .test_several import gpus

__all__ = ["gpus"]

MOVED_SECONDS = 120.0
DRIVERS_OWN = 16 * 2**20
"""What the driver keeps of a device for itself goes up and down by some KiB."""
Measured = Callable[[str, object], None]

TRAINING = """
import json, os, sys, threading, torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
steps, how, every = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
x = torch.randn(4096, 256)
data = TensorDataset(x, x.sum(1, keepdim=True) / 16)
loader = DataLoader(data, 256, shuffle=False, num_workers=2, pin_memory=True, persistent_workers=True)
net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 1)).cuda()
if how == "compile":
    net = torch.compile(net)
optimizer = torch.optim.Adam(net.parameters())
# Not by sys.stdin: what the loader forks closes that, and would wait for ever for who reads it.
asked = threading.Thread(target=os.read, args=(0, 1), daemon=True)
asked.start()
print(json.dumps("ready"), flush=True)
losses = []
while len(losses) < steps and asked.is_alive():
    for inputs, wanted in loader:
        loss = (net(inputs.cuda(non_blocking=True)) - wanted.cuda(non_blocking=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
print(json.dumps(losses[::every]), flush=True)
"""
JAX = """
import json, sys, jax
square = jax.jit(lambda x: x @ x)
x = jax.numpy.ones((512, 512))
before = float(square(x).sum())
print(json.dumps("ready"), flush=True)
sys.stdin.readline()
print(json.dumps("works" if float(square(x).sum()) == before else "changed"), flush=True)
"""
GRAPHS = """
import json, sys, torch
x = torch.zeros(2**20, device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    x += 1
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    graph.replay()
    print(json.dumps(float(x[0])), flush=True)
"""
COPIES = """
import json, sys, threading, torch
here = torch.arange(2**27, dtype=torch.float32).pin_memory()
there = here.cuda()
asked = threading.Thread(target=sys.stdin.readline)
asked.start()
print(json.dumps("ready"), flush=True)
while asked.is_alive():
    here.copy_(there, non_blocking=True)
    there.copy_(here, non_blocking=True)
    torch.cuda.synchronize()
wanted = torch.arange(2**27, dtype=torch.float32)
same = torch.equal(here, wanted) and torch.equal(there.cpu(), wanted)
print(json.dumps("as it was" if same else "changed"), flush=True)
"""


GENERATE = """
import json, sys, torch
from transformers import GPT2Config, GPT2LMHeadModel
torch.manual_seed(0)
size = dict(n_layer=4, n_head=8, n_embd=256, vocab_size=1000, bos_token_id=0, eos_token_id=999, pad_token_id=0)
net = GPT2LMHeadModel(GPT2Config(**size)).cuda().eval()
start = torch.arange(1, 17, device="cuda").reshape(2, 8)
print(json.dumps("ready"), flush=True)
made = [net.generate(start + n, max_new_tokens=64, do_sample=False).tolist() for n in range(int(sys.argv[1]))]
print(json.dumps(made), flush=True)
"""
ALL_REDUCE = """
import json, sys, threading, torch, torch.distributed as dist
rank, port = sys.argv[1:]
dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=int(rank), world_size=2)
asked = threading.Thread(target=sys.stdin.readline, daemon=True)
asked.start()
wrong, told, over = 0, False, torch.zeros(1, device="cuda")
while not over.item():
    total = torch.full((2**24,), 1.0 + int(rank), device="cuda")
    dist.all_reduce(total)
    wrong += int((total != 3).sum())
    over.fill_(0 if asked.is_alive() else 1)
    dist.all_reduce(over)
    if not told:
        told = True
        print(json.dumps("ready"), flush=True)
print(json.dumps({"wrong": wrong}), flush=True)
dist.destroy_process_group()
"""


class Parkable:
    """Leases without MPS in a ledger whose monitor parks them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ledger = Ledger(node.home)
        self.ledger.devices()

    def lease(
        self, id: str, share: float = 0.1, seconds: float = 900.0, sharing: Sharing = Sharing.PARKABLE, gpu: int = 0
    ) -> Lease:
        """`gpu` counts from the node's own on."""
        device, size = self.node.gpu.index + gpu, self.node.part(share)
        return self.ledger.grant(LeaseRequest(id, device, size, int(1000 * share), seconds, grace=5.0, sharing=sharing))

    def variables(self, lease: Lease) -> dict[str, str]:
        gpu = next(device for device in self.ledger.devices() if device.index == lease.device)
        held = environment(lease, gpu, self.node.home)
        return {**variables.of_lease(lease, gpu), **held}

    def python(self, lease: Lease, code: str, *arguments: object) -> Program:
        return self.attached(lease, [sys.executable, "-c", code, *map(str, arguments)])

    def cuda(self, lease: Lease, *arguments: object) -> Program:
        return self.attached(lease, [sys.executable, "-S", str(HERE / "job.py"), *map(str, arguments)])

    def attached(self, lease: Lease, command: list[str]) -> Program:
        program = self.node.start(command, self.variables(lease))
        self.ledger.attach(lease.id, program.process.pid, lease.token)
        return program

    def park(self, id: str, park_for: float = 600.0, *, freeze: bool = False) -> Lease:
        self.ledger.park(id, park_for, freeze=freeze)
        return self.moved(id)

    def unpark(self, id: str, seconds: float = 900.0) -> Lease:
        self.ledger.unpark(id, seconds)
        return self.moved(id)

    def moved(self, id: str) -> Lease:
        until(lambda: self.find(id).state not in (LeaseState.PARKING, LeaseState.UNPARKING), MOVED_SECONDS)
        return self.find(id)

    def find(self, id: str) -> Lease:
        found = self.ledger.get(id)
        assert found is not None
        return found


@pytest.fixture
def parkable(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parkable]:
    monkeypatch.setenv(MPS_MODE, "shared")
    made = Parkable(node)
    yield made
    for lease in made.ledger.list():
        made.ledger.release(lease.id)
    until(lambda: not made.ledger.list(), 30)
    made.ledger.close()


_proofs: dict[str, Proof] = {}


def proven(parkable: Parkable, framework: str) -> None:
    """Skips where the framework is not there; fails where it does not hold. It is shown once in a run: each test has a
    ledger of its own."""
    if framework != "cuda" and importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    if framework not in _proofs:
        shown = SelfTest(parkable.ledger, parkable.node.gpu).run(framework)
        assert shown is not None
        _proofs[framework] = shown
    assert _proofs[framework].holds, _proofs[framework].message
    with parkable.ledger.database.write() as tx:
        rows.record_proofs(tx, [_proofs[framework]])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_the_self_test_shows_is_measured(parkable: Parkable, framework: str, measured: Measured) -> None:
    shown = SelfTest(parkable.ledger, parkable.node.gpu).run(framework)
    if shown is None:
        pytest.skip(f"{framework} is not installed")
    measured(f"{framework} on driver {shown.driver}", shown.message)


@pytest.mark.parametrize("how", ["eager", "compile"])
def test_a_training_that_is_parked_has_the_losses_of_one_that_is_not(parkable: Parkable, how: str) -> None:
    proven(parkable, "torch")
    goes_on_as_if_nothing_had_been(parkable, TRAINING, 400, how, 1)


def test_text_that_is_generated_by_a_program_that_is_parked_is_the_same(parkable: Parkable) -> None:
    pytest.importorskip("transformers")
    proven(parkable, "torch")
    goes_on_as_if_nothing_had_been(parkable, GENERATE, 100)


def test_a_program_that_is_parked_with_freeze_stands_still_and_comes_back(parkable: Parkable) -> None:
    proven(parkable, "cuda")
    program = parkable.cuda(parkable.lease("frozen"), "alloc", "device", GIB)
    program.line()
    place = cgroup.directory_of(program.process.pid)
    if place is None or cgroup.members(place) != {program.process.pid}:
        pytest.skip("THE TEST OF --freeze IS LEFT OUT: programs get no cgroup of their own here")
    found = parkable.park("frozen", freeze=True)
    assert found.state is LeaseState.PARKED, found.park_refused
    assert cgroup.is_frozen(place)
    assert parkable.unpark("frozen").state is LeaseState.ACTIVE
    assert not cgroup.is_frozen(place)
    assert program.alive()


def test_a_kernel_of_jupyter_answers_while_its_gpu_part_is_parked(parkable: Parkable, tmp_path: Path) -> None:
    """A cell that needs the GPU waits until it is back, and has the data from before."""
    pytest.importorskip("ipykernel")
    client_of = pytest.importorskip("jupyter_client")
    proven(parkable, "torch")
    file, _ = client_of.connect.write_connection_file(str(tmp_path / "kernel.json"))
    lease = parkable.lease("notebook")
    kernel = parkable.attached(lease, [sys.executable, "-m", "ipykernel_launcher", "-f", file])
    client = client_of.BlockingKernelClient(connection_file=file)
    client.load_connection_file()
    client.start_channels()
    try:
        until(lambda: is_ready(client, kernel), 90)
        total = 2**20 * (2**20 - 1) // 2
        cell = "import torch; x = torch.arange(2**20, device='cuda'); print(int(x.sum()))"
        assert printed(client, client.execute(cell)) == f"{total}"
        found = parkable.park("notebook")
        assert found.state is LeaseState.PARKED, found.park_refused
        assert printed(client, client.execute("print(6 * 7)")) == "42"
        waits = client.execute("print(int(x.sum()))")
        with pytest.raises(queue.Empty):
            client.get_shell_msg(timeout=2)
        assert parkable.unpark("notebook").state is LeaseState.ACTIVE
        assert printed(client, waits) == f"{total}"
    finally:
        client.stop_channels()


def is_ready(client: Any, kernel: Program) -> bool:
    """The client takes a kernel that is slow to start for a dead one."""
    assert kernel.process.poll() is None, "the kernel ended"
    try:
        client.wait_for_ready(timeout=10)
    except RuntimeError:
        return False
    return True


def printed(client: Any, cell: str) -> str:
    """What a cell printed, once it is done."""
    assert said(client.get_shell_msg, cell)["content"]["status"] == "ok"
    lines = []
    while True:
        message = said(client.get_iopub_msg, cell)
        if message["content"].get("execution_state") == "idle":
            return "".join(lines).strip()
        lines.append(message["content"].get("text", ""))


def said(channel: Callable[..., Any], cell: str) -> Any:
    """The next message on a kernel's channel that is about the cell."""
    while True:
        message = channel(timeout=60)
        if message["parent_header"].get("msg_id") == cell:
            return message


def test_an_all_reduce_goes_on_whatever_is_asked(parkable: Parkable, gpus: list[Device], measured: Measured) -> None:
    """One of its two programs is parked and comes back, or is refused: no sum is wrong."""
    proven(parkable, "torch")
    (port,) = free_ports(1)
    ranks = [parkable.python(parkable.lease(f"r{rank}", gpu=rank), ALL_REDUCE, rank, port) for rank in range(2)]
    assert [program.line(90) for program in ranks] == ["ready"] * 2
    found = parkable.park("r0")
    measured("one of two programs of an all-reduce was asked to park", found.park_refused or found.state)
    if found.state is LeaseState.PARKED:
        assert parkable.unpark("r0").state is LeaseState.ACTIVE
    for program in ranks:
        program.tell("")
    assert [program.line(90) for program in ranks] == [{"wrong": 0}] * 2


def test_jax_is_refused_untouched(parkable: Parkable) -> None:
    """It was seen to come back, and seen not to."""
    pytest.importorskip("jax")
    proven(parkable, "cuda")
    shown = SelfTest(parkable.ledger, parkable.node.gpu).run("jax")
    assert shown is not None
    assert not shown.holds
    program = parkable.python(parkable.lease("jax"), JAX)
    assert program.line(60) == "ready"
    found = parkable.park("jax")
    assert found.park_refused is not None
    assert (found.state, found.park_refused.reason) == (LeaseState.ACTIVE, ParkingReason.FAILED_BEFORE)
    program.tell("")
    assert program.line() == "works"


def goes_on_as_if_nothing_had_been(parkable: Parkable, code: str, *arguments: object) -> None:
    undisturbed = parkable.python(parkable.lease("plain"), code, *arguments)
    assert undisturbed.line(120) == "ready"
    losses = undisturbed.line(180)
    undisturbed.kill()
    before = memory_used(parkable.node.gpu)
    parked = parkable.python(parkable.lease("parked"), code, *arguments)
    assert parked.line(120) == "ready"
    for _ in range(3):
        time.sleep(0.5)
        found = parkable.park("parked")
        assert found.state is LeaseState.PARKED, found.park_refused
        assert memory_used(parkable.node.gpu) <= before + DRIVERS_OWN
        back = parkable.unpark("parked")
        assert back.state is LeaseState.ACTIVE, back.end_reason
    assert parked.line(180) == losses


def test_graphs_come_back(parkable: Parkable) -> None:
    proven(parkable, "torch")
    program = parkable.python(parkable.lease("graphs"), GRAPHS)
    assert program.line(60) == "ready"
    for number in range(1, 4):
        program.tell("")
        assert program.line() == number
        assert parkable.park("graphs").state is LeaseState.PARKED
        assert parkable.unpark("graphs").state is LeaseState.ACTIVE


def test_others_use_the_gpu_meanwhile(parkable: Parkable, measured: Measured) -> None:
    """Both hold more than there is."""
    proven(parkable, "cuda")
    first_size, second_size = (parkable.node.part(share) for share in (0.1, 0.93))
    if memory.free(0) < first_size:
        pytest.skip(f"{first_size / GIB:.0f} GiB of main memory are not free here")
    parkable.ledger.set_policy(PolicyChange(parking_memory=2 * first_size))
    first = parkable.cuda(parkable.lease("first", 0.15), "alloc", "device", first_size)
    assert first.line()["outcome"] == "ok"
    found = parkable.park("first")
    assert found.state is LeaseState.PARKED, found.park_refused
    assert found.parked_bytes >= first_size
    second = parkable.cuda(parkable.lease("second", 0.95), "alloc", "device", second_size)
    assert second.line()["outcome"] == "ok"
    second.kill()
    parkable.ledger.release("second")
    until(lambda: parkable.find("second").state is LeaseState.ENDED, 30)
    back = parkable.unpark("first")
    assert first.alive()
    measured(f"{first_size / GIB:.0f} GiB parked, back", f"{found.moved_in:.1f} s, {back.moved_in:.1f} s")


def test_a_copy_that_runs_is_waited_for(parkable: Parkable) -> None:
    proven(parkable, "torch")
    program = parkable.python(parkable.lease("copies"), COPIES)
    assert program.line(60) == "ready"
    for _ in range(3):
        found = parkable.park("copies")
        assert found.state is LeaseState.PARKED, found.park_refused
        assert parkable.unpark("copies").state is LeaseState.ACTIVE
    program.tell("")
    assert program.line() == "as it was"


def test_a_program_that_is_killed_while_it_is_parked_frees_the_main_memory(parkable: Parkable) -> None:
    proven(parkable, "cuda")
    program = parkable.cuda(parkable.lease("a"), "alloc", "device", GIB)
    program.line()
    assert parkable.park("a").state is LeaseState.PARKED
    assert parkable.ledger.parking().used_bytes >= GIB
    program.kill()
    until(lambda: parkable.ledger.parking().used_bytes == 0, 30)


def test_a_kernel_that_runs_is_waited_for(parkable: Parkable) -> None:
    proven(parkable, "cuda")
    program = parkable.cuda(parkable.lease("busy"), "spin", 20)
    program.line()
    program.tell("go")
    time.sleep(1)
    assert parkable.park("busy").state is LeaseState.PARKED
    assert parkable.unpark("busy").state is LeaseState.ACTIVE
    assert program.line(60)["blocks_per_second"] > 0


def test_managed_memory_and_clients_of_mps_are_refused_untouched(parkable: Parkable) -> None:
    proven(parkable, "cuda")
    managed = parkable.cuda(parkable.lease("managed"), "alloc", "managed", GIB)
    managed.line()
    client = parkable.cuda(parkable.lease("client", sharing=Sharing.CONCURRENT), "alloc", "device", GIB)
    client.line()
    for id, reason in (("managed", ParkingReason.MANAGED_MEMORY), ("client", ParkingReason.MPS_CLIENT)):
        found = parkable.park(id)
        assert found.park_refused is not None
        assert (found.state, found.park_refused.reason) == (LeaseState.ACTIVE, reason)
    assert managed.alive()
    assert client.alive()


def test_too_little_main_memory_is_refused_before_anything_is_locked(parkable: Parkable) -> None:
    proven(parkable, "cuda")
    parkable.ledger.set_policy(PolicyChange(parking_memory=GIB // 2))
    program = parkable.cuda(parkable.lease("large"), "alloc", "device", GIB)
    program.line()
    found = parkable.park("large")
    assert found.park_refused is not None
    assert found.park_refused.reason == ParkingReason.NO_MEMORY
    assert program.alive()


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8, 1.5])
@pytest.mark.parametrize("back", [False, True])
def test_a_monitor_that_is_killed_leaves_nothing_half_done(parkable: Parkable, delay: float, back: bool) -> None:
    proven(parkable, "cuda")
    before = memory_used(parkable.node.gpu)
    program = parkable.cuda(parkable.lease("a", 0.2), "alloc", "device", 4 * GIB)
    program.line()
    if back:
        parkable.park("a")
        parkable.ledger.unpark("a", 600)
    else:
        parkable.ledger.park("a", 600)
    time.sleep(delay)
    pid = monitor_control.running(parkable.ledger.home)
    assert pid
    os.kill(pid, signal.SIGKILL)
    found = parkable.moved("a")
    if found.state is LeaseState.PARKED:
        assert memory_used(parkable.node.gpu) <= before + DRIVERS_OWN
        found = parkable.unpark("a")
    assert found.state is LeaseState.ACTIVE
    assert program.alive()
    assert parkable.ledger.parking().used_bytes == 0


def test_the_end_of_a_parking_frees_the_main_memory(parkable: Parkable) -> None:
    proven(parkable, "cuda")
    program = parkable.cuda(parkable.lease("a", 0.2), "alloc", "device", 4 * GIB)
    program.line()
    parkable.park("a", 3)
    until(lambda: parkable.find("a").state is LeaseState.ENDED, 30)
    assert parkable.find("a").end_reason is EndReason.EXPIRED
    assert parkable.ledger.parking().used_bytes == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("turn", "total"), [(2, 60), pytest.param(30, 300, marks=pytest.mark.slow)])
def test_two_trainings_take_turns(parkable: Parkable, turn: int, total: int, measured: Measured) -> None:
    """Many short turns, and what `turns` of a queue does, for five minutes."""
    proven(parkable, "torch")
    programs = {}
    for id in ("plain", "a", "b"):
        programs[id] = parkable.python(parkable.lease(id, 0.1 if id == "plain" else 0.7), TRAINING, 10**9, "eager", 10)
        assert programs[id].line(120) == "ready"
        if id != "plain":
            assert parkable.park(id).state is LeaseState.PARKED
    deadline, moved = time.monotonic() + total, []
    while time.monotonic() < deadline:
        for id in "ab":
            back = parkable.unpark(id, 600)
            assert back.state is LeaseState.ACTIVE, back.end_reason
            time.sleep(turn)
            found = parkable.park(id, 600)
            assert found.state is LeaseState.PARKED, found.park_refused
            moved.append(back.moved_in + found.moved_in)
            if programs[id].process.poll() is not None:
                print((parkable.ledger.home / "monitor.log").read_text())
                programs[id].line()
    losses = {}
    for id in ("a", "b", "plain"):
        if id != "plain":
            assert parkable.unpark(id, 600).state is LeaseState.ACTIVE
        programs[id].tell("")
        losses[id] = programs[id].line(60)
        parkable.ledger.release(id)
        until(lambda id=id: parkable.find(id).state is LeaseState.ENDED, 30)  # type: ignore[misc]
    for id in "ab":
        both = min(len(losses[id]), len(losses["plain"]))
        assert both > 50
        assert losses[id][:both] == losses["plain"][:both]
    assert "had come to the GPU" not in (parkable.ledger.home / "monitor.log").read_text()
    measured(f"{len(moved)} turns of {turn} s, park and restore at most", f"{max(moved):.1f} s")
