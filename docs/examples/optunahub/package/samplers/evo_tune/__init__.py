"""Package of OptunaHub: the sampler is part of evo-tune."""

from evo_tune.integrations.optuna import StrategySampler

__all__ = ["StrategySampler"]
