"""The name of `evo_tune.training.prediction` in 1.0.0, where the classes of exported models were; removed in 2.0."""

import sys
import warnings
from importlib import import_module

warnings.warn(
    "evo_tune.prediction is deprecated since 1.1 and removed in 2.0: use evo_tune.training.prediction",
    FutureWarning,
    stacklevel=2,
)
for _name in ("language", "model", "series"):
    sys.modules[f"{__name__}.{_name}"] = import_module(f"evo_tune.training.prediction.{_name}")
