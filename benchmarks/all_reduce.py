"""One rank of an all-reduce of 1 GiB over all GPUs of its world: rank 0 prints what the sum was, and the bus bandwidth
as nccl-tests count it. For torchrun, and for a replica of a gang.
"""

from __future__ import annotations

import json
import os
import statistics

import torch
import torch.distributed as dist

BYTES = 2**30
BLOCKS, ROUNDS = 20, 10


def main() -> None:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    world = dist.get_world_size()
    data = torch.ones(BYTES // 4, device="cuda")
    dist.all_reduce(data)
    total = data[-1].item()
    # Sums of nothing do not grow.
    data.zero_()
    rates = []
    for _ in range(BLOCKS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in "se")
        start.record()
        for _ in range(ROUNDS):
            dist.all_reduce(data)
        end.record()
        torch.cuda.synchronize()
        rates.append(ROUNDS * BYTES * 2 * (world - 1) / world / start.elapsed_time(end) / 1e6)
    if dist.get_rank() == 0:
        print(json.dumps({"sum": total, "gb_per_second": statistics.median(rates[1:])}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
