"""Gradient descent in parts: each part decays its learning rate, and the next one continues from before the decay."""

import json
import math

from evo_tune import Context, Float, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(1e-3, 0.5, log=True, default=0.02))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget", "curve"]


def evaluate(genome: dict, context: Context, *, steps: int = 100) -> dict[str, float]:
    """Train up to the budget, from the saved state of the trial that this one continues."""
    done, x = 0, 5.0
    if context.resume_folder and (context.resume_folder / "state.json").exists():
        done, x = json.loads((context.resume_folder / "state.json").read_text())
    last = math.ceil(context.budget * steps)
    fork = round(0.8 * last)  # up to here a part equals the full training, which decays from 0.8 * steps
    for step in range(done, last):
        if step == fork:
            (context.folder / "state.json").write_text(json.dumps([step, x]))
        x -= genome["lr"] * min(1.0, (last - step) / (last - fork)) * 2 * (x - 2.0)
        if (step + 1) % 10 == 0 or step + 1 in (fork, last):
            context.report((step + 1) / steps, decayed=step >= fork, loss=(x - 2.0) ** 2)
    return {"loss": (x - 2.0) ** 2}
