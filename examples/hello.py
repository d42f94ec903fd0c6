"""Hello from a share of a GPU: python examples/hello.py"""

import os

from cumulus.sdk import CumulusClient


def hello(name: str) -> str:
    size = int(os.environ["CHRONOS_MEMORY_BYTES"])
    print(f"on {os.environ['CHRONOS_DEVICE_NAME']}")
    return f"Hello {name}, you lease {size / 2**30:.1f} GiB of it."


if __name__ == "__main__":
    with CumulusClient() as client:
        print(client.run(hello, "world", gpu_memory=0.1, duration="5m"))
