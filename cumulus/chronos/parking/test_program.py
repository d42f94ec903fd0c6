"""What the self-test parks: `python test_program.py FRAMEWORK`, with any Python that may have the framework.

    <- go                                       it belongs to its lease now
    -> {"ready": true, "version": "2.8.0"}      it has data on the GPU, and has computed with them; or {"missing": "…"}
    <- again
    -> {"same": true, "works": true}            the data are what they were, and it computes on

Standard library only, but for the framework.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Callable
from typing import Any

BYTES = 64 * 2**20


class Cuda:
    """The plain driver."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libcuda.so.1")
        device, context, self.pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuMemAlloc_v2", ctypes.byref(self.pointer), ctypes.c_size_t(BYTES))
        number = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(number))
        self.version = f"{number.value // 1000}.{number.value % 1000 // 10}"
        self.fill(0x5EED)
        self.before = self.read()

    def call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self.lib, name)(*arguments):
            raise RuntimeError(f"{name} answers {code}")

    def fill(self, number: int) -> None:
        self.call("cuMemsetD32_v2", self.pointer, ctypes.c_uint(number), ctypes.c_size_t(BYTES // 4))
        self.call("cuCtxSynchronize")

    def read(self) -> bytes:
        data = ctypes.create_string_buffer(BYTES)
        self.call("cuMemcpyDtoH_v2", data, self.pointer, ctypes.c_size_t(BYTES))
        return data.raw

    def same(self) -> bool:
        return self.read() == self.before

    def works(self) -> bool:
        self.fill(0xC0DE)
        return self.read() == (0xC0DE).to_bytes(4, sys.byteorder) * (BYTES // 4)


class Torch:
    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.version = str(torch.__version__)
        torch.manual_seed(0)
        self.x = torch.randn(2048, 2048, device="cuda")
        self.net = torch.nn.Sequential(torch.nn.Linear(2048, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1)).cuda()
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self.first = self.step()
        self.before = self.x.cpu().clone()

    def step(self) -> float:
        loss = (self.net(self.x) - self.x.sum(1, keepdim=True) / 45).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss)

    def same(self) -> bool:
        return bool((self.x.cpu() == self.before).all())

    def works(self) -> bool:
        return [self.step() for _ in range(20)][-1] < self.first


class Cupy:
    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.version = str(cupy.__version__)
        self.x = cupy.random.RandomState(0).standard_normal((2048, 2048))
        self.before = self.x.get()

    def same(self) -> bool:
        return bool((self.x.get() == self.before).all())

    def works(self) -> bool:
        wanted = self.before @ self.before[:, :1]
        return bool(abs((self.x @ self.x[:, :1]).get() - wanted).max() < 1e-6)


class Jax:
    def __init__(self) -> None:
        import jax
        import numpy

        self.numpy = numpy
        self.version = str(jax.__version__)
        if jax.devices()[0].platform != "gpu":
            raise ImportError("jax has no GPU here")
        self.square = jax.jit(lambda x: x @ x)
        self.x = jax.random.normal(jax.random.PRNGKey(0), (1024, 1024))
        self.before, self.product = numpy.asarray(self.x), numpy.asarray(self.square(self.x))

    def same(self) -> bool:
        return bool((self.numpy.asarray(self.x) == self.before).all())

    def works(self) -> bool:
        return bool(self.numpy.allclose(self.numpy.asarray(self.square(self.x)), self.product))


class Tensorflow:
    def __init__(self) -> None:
        import tensorflow

        self.tf = tensorflow
        self.version = str(tensorflow.__version__)
        if not tensorflow.config.list_physical_devices("GPU"):
            raise ImportError("tensorflow has no GPU here")
        self.x = tensorflow.random.stateless_normal((1024, 1024), (0, 0))
        self.before, self.product = self.x.numpy(), tensorflow.matmul(self.x, self.x).numpy()

    def same(self) -> bool:
        return bool((self.x.numpy() == self.before).all())

    def works(self) -> bool:
        return bool(abs(self.tf.matmul(self.x, self.x).numpy() - self.product).max() < 1e-3)


FRAMEWORKS: dict[str, Callable[[], Any]] = {
    "cuda": Cuda,
    "torch": Torch,
    "cupy": Cupy,
    "jax": Jax,
    "tensorflow": Tensorflow,
}


def main(name: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    # What a framework prints is no answer.
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    sys.stdin.readline()
    try:
        program = FRAMEWORKS[name]()
    except (ImportError, OSError) as error:
        say(missing=str(error))
        return
    except Exception as error:
        say(failed=str(error))
        return
    say(ready=True, version=program.version)
    while sys.stdin.readline():
        with contextlib.suppress(Exception):
            say(same=program.same(), works=program.works())
            continue
        say(same=False, works=False)


if __name__ == "__main__":
    main(sys.argv[1])
