"""A complete neural network by way of the SDK: trained on a leased share, stopped, gone on with, and checked here.

python tests/test_complete_nn.py
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import pytest

    sys.exit(pytest.main([__file__, "-v"]))

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from sdk.client import CumulusClient
from tests.e2e.conftest import Machine, serving

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("network")]

Array = npt.NDArray[np.float64]


class Network(NamedTuple):
    """Two layers. The output is the probability of the second class."""

    inner: Array
    inner_bias: Array
    outer: Array
    outer_bias: Array

    @staticmethod
    def new(seed: int) -> Network:
        random = np.random.default_rng(seed)
        return Network(random.normal(size=(2, 16)), np.zeros(16), random.normal(size=(16, 1)), np.zeros(1))

    def forward(self, points: Array) -> tuple[Array, Array]:
        hidden = np.tanh(points @ self.inner + self.inner_bias)
        return hidden, 1 / (1 + np.exp(-(hidden @ self.outer + self.outer_bias)))

    def accuracy(self, points: Array, classes: Array) -> float:
        return float(np.mean((self.forward(points)[1] > 0.5) == classes))


def spirals(seed: int, count: int = 400) -> tuple[Array, Array]:
    """Two classes that no line divides: inside of a ring, and on it."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 2, size=(count, 1)).astype(float)
    angles, radii = random.uniform(0, 2 * np.pi, (count, 1)), 1.0 + classes + random.normal(0, 0.1, (count, 1))
    return np.hstack([radii * np.cos(angles), radii * np.sin(angles)]), classes


def train(network: Network, points: Array, classes: Array, epochs: int) -> tuple[Network, list[float]]:
    """Gradient descent; the network that comes of it, and the loss of each epoch."""
    losses = []
    for epoch in range(epochs):
        hidden, said = network.forward(points)
        losses.append(float(-np.mean(classes * np.log(said) + (1 - classes) * np.log(1 - said))))
        error = (said - classes) / len(points)
        inner = (error @ network.outer.T) * (1 - hidden**2)
        gradients = (points.T @ inner, inner.sum(axis=0), hidden.T @ error, error.sum(axis=0))
        network = Network(*(weights - 2.0 * gradient for weights, gradient in zip(network, gradients, strict=True)))
        if epoch % 100 == 0:
            print(f"epoch {epoch}: loss {losses[-1]:.3f}", flush=True)
    return network, losses


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CumulusClient]:
    machine = Machine(tmp_path_factory.mktemp("nn"))
    machine.serves_grpc = True
    patch = pytest.MonkeyPatch()
    try:
        for name in ("CUMULUS_HOME", "CHRONOS_HOME"):
            patch.setenv(name, machine.env[name])
        patch.delenv("CUMULUS_ORCHESTRATOR_URL", raising=False)
        patch.setenv("XDG_CONFIG_HOME", str(machine.directory / "config"))
        with serving(machine), CumulusClient() as made:
            yield made
    finally:
        patch.undo()


def test_a_network_is_trained_on_a_leased_share(client: CumulusClient, capfd: pytest.CaptureFixture[str]) -> None:
    points, classes = spirals(seed=1)
    begun = Network.new(seed=3)
    network, losses = client.run(train, begun, points, classes, 300, gpu_memory=0.5, duration=3600)
    assert losses[-1] < losses[0] / 4
    unseen = spirals(seed=2)
    assert network.accuracy(*unseen) > 0.95 > begun.accuracy(*unseen)
    assert "epoch 200: loss" in capfd.readouterr().out


def test_training_goes_on_with_what_came_of_it(client: CumulusClient) -> None:
    """In one warm process, whose results are those of one training without a break."""
    points, classes = spirals(seed=1)
    with client.session(gpu_memory=0.3, duration=600) as session:
        half, first = session.run(train, Network.new(seed=3), points, classes, 60)
        whole, second = session.run(train, half, points, classes, 60)
    expected, losses = train(Network.new(seed=3), points, classes, 120)
    assert first + second == pytest.approx(losses)
    assert all(np.allclose(one, other) for one, other in zip(whole, expected, strict=True))
