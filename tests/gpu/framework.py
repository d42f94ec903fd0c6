"""Real programs of frameworks: `python framework.py NAME` does some work, fills its lease by twentieths until it is
refused, and prints one line of JSON: whether the work was right, what the framework takes for the GPU's size, how many
twentieths it got and how it was refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

LEASE = int(os.environ["CHRONOS_MEMORY_BYTES"])
STEP = LEASE // 20


def fill(allocate: Callable[[int], Any]) -> tuple[int, str]:
    held = []
    try:
        while len(held) < 40:
            held.append(allocate(STEP))
    except Exception as error:
        named = any(text in str(error) + type(error).__name__ for text in ("OutOfMemory", "RESOURCE_EXHAUSTED"))
        return len(held), "refused" if named else repr(error)
    return len(held), "never refused"


def tell(works: bool, total: int, allocate: Callable[[int], Any]) -> None:
    held, outcome = fill(allocate)
    print(json.dumps({"works": bool(works), "total": total, "held": held, "outcome": outcome}), flush=True)


def tell_torch(works: bool) -> None:
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    tell(works, total, lambda size: torch.empty(size, dtype=torch.uint8, device="cuda"))


def model() -> tuple[Any, Any, Any]:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 1)).cuda()
    x = torch.randn(1024, 256, device="cuda")
    return net, x, x.sum(1, keepdim=True) / 16


def train(step: Callable[[], Any]) -> bool:
    first = float(step())
    for _ in range(60):
        last = step()
    return float(last) < first / 2


def torch_step(net: Any, x: Any, y: Any) -> Callable[[], Any]:
    import torch

    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def step() -> Any:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def torch_eager() -> None:
    tell_torch(train(torch_step(*model())))


torch_expandable = torch_async = torch_eager


def torch_compile() -> None:
    import torch

    net, x, y = model()
    tell_torch(train(torch_step(torch.compile(net), x, y)))


def torch_graphs() -> None:
    import torch

    x = torch.ones(1 << 20, device="cuda")
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        y = (x * 2).sum()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        y = (torch.cat([x, x]) * 2).sum()
    x.fill_(3)
    for _ in range(20):
        graph.replay()
    tell_torch(float(y) == 12 << 20)


torch_graphs_async = torch_graphs


class Numbers:
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> int:
        return index


def torch_loader() -> None:
    import torch

    loader: Any = torch.utils.data.DataLoader(Numbers(), batch_size=8, num_workers=2, pin_memory=True)  # type: ignore[arg-type]
    tell_torch(sum(int(batch.cuda().sum()) for batch in loader) == sum(range(64)))


def receive(inbox: Any, outbox: Any) -> None:
    tensor = inbox.get()
    outbox.put((float(tensor.sum()), tensor.is_cuda))
    del tensor
    inbox.get()


def torch_ipc() -> None:
    """A tensor of a third of the lease goes to another process: it counts once."""
    import torch

    context = torch.multiprocessing.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    child = context.Process(target=receive, args=(inbox, outbox))
    child.start()
    tensor = torch.ones(LEASE // 3 // 4, device="cuda")
    inbox.put(tensor)
    total, on_gpu = outbox.get(timeout=60)
    again = torch.ones(LEASE // 3 // 4, device="cuda")
    inbox.put(None)
    child.join(20)
    works = on_gpu and abs(total / tensor.numel() - 1) < 1e-5 and float(again[-1]) == 1
    del tensor, again
    torch.cuda.empty_cache()
    tell_torch(works)


def triton() -> None:
    import torch
    import triton as framework
    import triton.language as tl

    @framework.jit
    def double(x, y, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(y + at, tl.load(x + at, mask=at < n) * 2, mask=at < n)

    globals()["tl"] = tl
    x = torch.randn(10_000, device="cuda")
    y = torch.empty_like(x)
    double[(10,)](x, y, x.numel(), BLOCK=1024)
    tell_torch(torch.equal(y, x * 2))


def transformers() -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    net = GPT2LMHeadModel(GPT2Config(n_layer=4, n_head=8, n_embd=256, vocab_size=1000)).cuda()
    tokens = torch.arange(512, device="cuda").reshape(2, 256)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)

    def step() -> Any:
        optimizer.zero_grad()
        loss = net(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    tell_torch(train(step))


def jax() -> None:
    import jax as framework

    x = framework.numpy.ones((512, 512))
    works = bool((framework.jit(lambda a: a @ a)(x) == 512).all())
    total = framework.devices()[0].memory_stats()["bytes_limit"]
    held = lambda size: framework.numpy.zeros(size, framework.numpy.uint8).block_until_ready()  # noqa: E731
    tell(works, total, held)


jax_as_it_goes = jax


def cupy() -> None:
    import cupy as framework

    x = framework.ones((512, 512))
    works = bool((x @ x == 512).all())
    tell(works, framework.cuda.Device().mem_info[1], lambda size: framework.empty(size, dtype=framework.uint8))


def cupy_async() -> None:
    import cupy as framework

    framework.cuda.set_allocator(framework.cuda.MemoryAsyncPool().malloc)
    cupy()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
