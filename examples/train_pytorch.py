"""A training in PyTorch that goes on bit for bit where it was. docs/checkpoints.md explains it.

python train_pytorch.py [EPOCHS]
"""

import sys

import torch

from cumulus import checkpoint
from cumulus.checkpoint.adapters.pytorch import ResumableLoader, TrainingState

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20

torch.manual_seed(1)
torch.use_deterministic_algorithms(True)
device = "cuda" if torch.cuda.is_available() else "cpu"
inputs = torch.randn(4096, 32)
dataset = torch.utils.data.TensorDataset(inputs, inputs.sin().sum(dim=1, keepdim=True))

model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 1)).to(
    device
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = ResumableLoader(dataset, batch_size=64, shuffle=True, seed=1)

training = TrainingState(model, optimizer, loader=loader)
step = training.restore()
print("starts after step", step)

while loader.epoch < EPOCHS:
    for x, y in loader:
        loss = (model(x.to(device)) - y.to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1

        if checkpoint.should_checkpoint():
            training.save(step)
            checkpoint.exit_if_ending()

print("done:", loss.item(), "weights:", sum(parameter.double().sum().item() for parameter in model.parameters()))
