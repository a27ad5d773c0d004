"""A plain PyTorch loop: a small network learns sin(5x) from 256 noisy points."""

import math

from evo_tune import Choice, Context, Float, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(1e-4, 0.1, log=True, default=0.003), width=Choice([8, 32, 128], ordered=True, default=32))
OBJECTIVES = [Minimize("val_loss")]


def evaluate(genome: dict, context: Context, *, steps: int = 500) -> dict[str, float]:
    """Train, report the curve, and return the loss on 256 points that were not trained on."""
    import torch
    from torch.nn import Linear, Sequential, Tanh, functional

    torch.manual_seed(context.seed)
    x = 2 * torch.rand(512, 1, device=context.device) - 1
    y = torch.sin(5 * x) + 0.1 * torch.randn_like(x)
    model = Sequential(Linear(1, genome["width"]), Tanh(), Linear(genome["width"], 1)).to(context.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=genome["lr"])
    last = math.ceil(context.budget * steps)
    for step in range(1, last + 1):
        optimizer.zero_grad()
        functional.mse_loss(model(x[:256]), y[:256]).backward()
        optimizer.step()
        if step % 50 == 0 or step == last:
            val_loss = functional.mse_loss(model(x[256:]), y[256:]).item()
            context.report(step / steps, val_loss=val_loss)
    return {"val_loss": val_loss}
