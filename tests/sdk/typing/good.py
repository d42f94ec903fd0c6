"""What mypy accepts, with the types that results have."""

import asyncio
from typing import assert_type

from cumulus.sdk import AsyncCumulusClient, Call, CumulusClient, gpu, remote

client = CumulusClient()


def train(path: str, epochs: int = 3) -> float:
    return len(path) * epochs / 2


async def fetch(path: str) -> bytes:
    return path.encode()


assert_type(client.run(train, "x", gpu_memory=0.5, duration="1h", epochs=4), float)
assert_type(client.run(fetch, "x"), bytes)
assert_type(client.submit(train, "x"), Call[float])
assert_type(client.submit(train, "x").result(), float)
assert_type(client.remote(train, gpu_memory="20Gi", gpus=2)("x", epochs=4), float)
assert_type(client.remote(train).submit("x"), Call[float])
for value in client.map(train, ["a", "b"], workers=4, gpu_memory=0.25):
    assert_type(value, float)
with client.session(gpu_memory=0.5) as session:
    assert_type(session.run(train, "x"), float)
    assert_type(session.remote(train)("x"), float)


@remote
def plain(x: int) -> str:
    return str(x)


@gpu(memory=0.5, duration="1h")
def leased(x: int) -> str:
    return str(x)


assert_type(plain(1), str)
assert_type(leased.submit(1).result(timeout=3.0), str)


async def main() -> None:
    async with AsyncCumulusClient() as other:
        assert_type(await other.run(train, "x"), float)
        assert_type(await (await other.submit(train, "x")), float)
        async for each in other.map(train, ["a"]):
            assert_type(each, float)


asyncio.run(main())
