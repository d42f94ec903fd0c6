"""Trains a small network with PyTorch on a leased share of a GPU, or on the CPU: python examples/call_pytorch.py

It saves checkpoints, so a lease that ends too early costs no work: the call goes on in a new one.
"""

from cumulus.sdk import gpu


@gpu(memory=0.2, duration="10m", checkpoint=True)
def train(steps: int) -> tuple[str, float]:
    import torch

    from cumulus import checkpoint

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    begin = 0
    if saved := checkpoint.load_checkpoint():
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        begin = saved["step"] + 1
    loss = torch.tensor(0.0)
    for step in range(begin, steps):
        points = torch.rand(256, 2, device=device) * 2 - 1
        loss = torch.nn.functional.mse_loss(model(points), points.prod(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.4f}")
        if checkpoint.should_checkpoint():
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            checkpoint.save_checkpoint(state, step=step)
            checkpoint.exit_if_ending()
    return device, loss.item()


if __name__ == "__main__":
    device, loss = train(500)
    print(f"trained on {device}, loss {loss:.4f}")
