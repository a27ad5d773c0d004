"""A plain PyTorch loop: a small network learns sin(5x) from 256 points."""

import math

from evo_tune import Choice, Context, Float, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(1e-4, 0.1, log=True, default=0.01), width=Choice([8, 32, 128], ordered=True, default=32))
OBJECTIVES = [Minimize("val_loss")]


def evaluate(genome: dict, context: Context, *, steps: int = 500) -> dict[str, float]:
    """Train, report the curve, and return the loss on the points between those of the training."""
    import torch
    from torch.nn import Linear, Sequential, Tanh, functional

    torch.manual_seed(context.seed)
    x = torch.linspace(-1, 1, 512, device=context.device).unsqueeze(1)
    train, held_out = (x[::2], torch.sin(5 * x[::2])), (x[1::2], torch.sin(5 * x[1::2]))
    model = Sequential(Linear(1, genome["width"]), Tanh(), Linear(genome["width"], 1)).to(context.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=genome["lr"])
    last = math.ceil(context.budget * steps)
    for step in range(1, last + 1):
        optimizer.zero_grad()
        functional.mse_loss(model(train[0]), train[1]).backward()
        optimizer.step()
        if step % 50 == 0 or step == last:
            val_loss = functional.mse_loss(model(held_out[0]), held_out[1]).item()
            context.report(step / steps, val_loss=val_loss)
    return {"val_loss": val_loss}
