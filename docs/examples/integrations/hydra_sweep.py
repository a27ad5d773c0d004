"""An application of Hydra that returns its loss: python hydra_sweep.py -m hydra/sweeper=evo_tune 'lr=interval(0,1)'."""

from dataclasses import dataclass, field

import hydra
import numpy as np
from hydra.core.config_store import ConfigStore


@dataclass
class Model:
    """A polynomial."""

    degree: int = 3


@dataclass
class Config:
    """A fit by gradient descent."""

    lr: float = 0.1
    steps: int = 200
    model: Model = field(default_factory=Model)


ConfigStore.instance().store(name="config", node=Config)


@hydra.main(version_base=None, config_name="config")
def train(config: Config) -> float:
    """Return the loss on held-out points."""
    x = np.linspace(-1, 1, 40)
    y = np.sin(3 * x) + np.random.default_rng(0).normal(0, 0.1, 40)
    powers = x[:, None] ** np.arange(config.model.degree + 1)
    weights = np.zeros(config.model.degree + 1)
    for _ in range(config.steps):
        errors = powers[::2] @ weights - y[::2]
        weights -= config.lr * powers[::2].T @ errors / len(errors)
    loss = float(np.mean((powers[1::2] @ weights - y[1::2]) ** 2))
    print(f"loss: {loss:.6f}")  # for `evo-tune resume`, which runs the application as a command
    return loss


if __name__ == "__main__":
    train()
