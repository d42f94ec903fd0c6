"""Lightning, transformers, JAX and Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from cumulus import checkpoint
from cumulus.checkpoint import api
from tests.checkpoint.adapters.conftest import Lease, Leases


@pytest.mark.filterwarnings("ignore")
def test_lightning(leases: Leases, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="NOT TESTED: PyTorch is not installed")
    lightning = pytest.importorskip("lightning", reason="NOT TESTED: Lightning is not installed")
    from cumulus.checkpoint.adapters.lightning import CumulusCheckpoint
    from cumulus.checkpoint.adapters.pytorch import ResumableLoader

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            return (self.layer(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.05)

    def train(resumable: bool = False) -> Any:
        torch.manual_seed(1)
        data = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.randn(40, 1))
        loader = ResumableLoader(data, 10, shuffle=True) if resumable else torch.utils.data.DataLoader(data, 10)
        model = Model()
        trainer = lightning.Trainer(
            max_epochs=4, callbacks=[CumulusCheckpoint()], accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=str(tmp_path),
        )  # fmt: skip
        trainer.fit(model, loader, ckpt_path=CumulusCheckpoint.newest())
        assert trainer.global_step == 16
        return model.layer.weight.detach().clone()

    # At the ends of epochs. In their middle, a loader that has no position begins anew.
    assert torch.equal(leases.whole(train), leases.cut(train, [4, 8]))
    whole = leases.whole(lambda: train(True))
    assert torch.equal(whole, leases.cut(lambda: train(True), [2, 1, 5, 3]))


@pytest.mark.filterwarnings("ignore")
def test_transformers(leases: Leases, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="NOT TESTED: PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="NOT TESTED: transformers is not installed")
    pytest.importorskip("accelerate", reason="NOT TESTED: accelerate is not installed")
    from cumulus.checkpoint.adapters.transformers import CumulusCheckpoint

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)
            self.dropout = torch.nn.Dropout(0.2)

        def forward(self, x: Any, labels: Any) -> Any:
            return {"loss": (self.layer(self.dropout(x)) - labels).square().mean()}

    turn = 0

    def train() -> Any:
        nonlocal turn
        turn += 1
        torch.manual_seed(1)
        data = [{"x": torch.randn(4), "labels": torch.randn(1)} for _ in range(40)]
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / f"out-{turn}"), max_steps=16, per_device_train_batch_size=5, report_to=[],
            save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True, seed=3,
        )  # fmt: skip
        model = Model()
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[CumulusCheckpoint()])
        trainer.train(resume_from_checkpoint=CumulusCheckpoint.newest())
        assert trainer.state.global_step == 16
        return model.layer.weight.detach().clone()

    assert torch.equal(leases.whole(train), leases.cut(train, [5, 6]))


def test_jax(leases: Leases, tmp_path: Path) -> None:
    jax = pytest.importorskip("jax", reason="NOT TESTED: JAX is not installed")
    from cumulus.checkpoint.adapters import jax as checkpoints

    @jax.jit
    def update(state: Any) -> Any:
        key, noise = jax.random.split(state["key"])
        return {"key": key, "w": state["w"] * 0.9 + jax.random.normal(noise, (5,)), "n": state["n"] + 1}

    def train(wait: bool = True) -> Any:
        state = {"key": jax.random.key(0), "w": jax.numpy.zeros(5, jax.numpy.bfloat16), "n": 0}
        state["w"] = state["w"].astype(jax.numpy.float32)
        state, done = checkpoints.restore(state)
        for step in range(done, 20):
            state = update(state)
            if checkpoint.should_checkpoint():
                checkpoints.save(state, step=step + 1, wait=wait)
                checkpoint.exit_if_ending()
        return numpy.asarray(state["w"])

    whole = leases.whole(train)
    for wait in (True, False):
        assert numpy.array_equal(leases.cut(lambda: train(wait), [3, 9]), whole)  # noqa: B023
    api.use(Lease(tmp_path / "training-2", 10))
    with pytest.raises(ValueError, match="the checkpoint has 3 leaves, and the state has 1"):
        checkpoints.restore([1])


def test_orbax(leases: Leases, tmp_path: Path) -> None:
    jax = pytest.importorskip("jax", reason="NOT TESTED: JAX is not installed")
    pytest.importorskip("orbax.checkpoint", reason="NOT TESTED: Orbax is not installed")
    from cumulus.checkpoint.adapters import jax as checkpoints

    api.use(Lease(tmp_path / "l1", 10**9))
    like = {"w": jax.numpy.zeros(5), "b": {"c": jax.numpy.zeros(2)}}
    assert checkpoints.restore_orbax(like) == (like, 0)
    checkpoints.save_orbax({"w": jax.numpy.arange(5.0), "b": {"c": jax.numpy.ones(2)}}, step=7)
    found, step = checkpoints.restore_orbax(like)
    assert step == 7
    assert found["w"].tolist() == [0, 1, 2, 3, 4]
    assert found["b"]["c"].tolist() == [1, 1]


@pytest.mark.filterwarnings("ignore")
def test_keras(leases: Leases) -> None:
    keras = pytest.importorskip("keras", reason="NOT TESTED: Keras is not installed")
    from cumulus.checkpoint.adapters.keras import CumulusCheckpoint

    rng = numpy.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype("float32"), rng.normal(size=(40, 1)).astype("float32")

    def train() -> Any:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.layers.Dense(8), keras.layers.Dropout(0.2), keras.layers.Dense(1)])
        model.build((None, 4))
        model.compile("adam", "mse")
        backup = CumulusCheckpoint()
        model.fit(
            x, y, epochs=4, batch_size=10, shuffle=False, verbose=0, callbacks=[backup],
            initial_epoch=backup.restore(model),
        )  # fmt: skip
        return [weight.copy() for weight in model.get_weights()]

    # Five questions an epoch: four batches and its end.
    whole, cut = leases.whole(train), leases.cut(train, [5, 10])
    assert all(numpy.array_equal(one, other) for one, other in zip(whole, cut, strict=True))
