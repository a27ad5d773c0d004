"""The task of forecasting time series: windows that overlap, and scores in the units of the series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from evo_tune.training.evaluation import model_outputs
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.optim.losses import Loss, QuantileLoss, SquaredError
from evo_tune.training.recipe.data.forecasts import ForecastScores, ForecastWindows, unscale_outputs
from evo_tune.training.recipe.forecasting import ForecastTask
from evo_tune.training.samples import SEEN, Examples, SampleTraining
from evo_tune.training.trainer import Trainer


class Slices:
    """Rows of overlapping values, (n, last − first), made when they are asked for: all at once, they take much memory.

    It has the part of a tensor's interface that `Epochs` uses.

    Args:
        values: Values of all series.
        start: (n,), place that the row counts from.
        lowest: (n,), place before which the value there is repeated.
        first: First place of the row, counted from `start`.
        last: Place after its last.
    """

    def __init__(self, values: Tensor, start: Tensor, lowest: Tensor, first: int, last: int) -> None:
        self.values, self.start, self.lowest, self.first, self.last = values, start, lowest, first, last
        self.shape, self.dtype, self.device = (len(start), last - first), values.dtype, values.device

    @property
    def nbytes(self) -> int:
        """Bytes of values and places."""
        return self.values.nbytes + self.start.nbytes + self.lowest.nbytes

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        places = self.start[rows][:, None] + torch.arange(self.first, self.last, device=self.device)
        return self.values[torch.maximum(places, self.lowest[rows][:, None])]

    def to(self, device: torch.device) -> Slices:
        """Return the same rows on a device."""
        values, start, lowest = (one.to(device) for one in (self.values, self.start, self.lowest))
        return Slices(values, start, lowest, self.first, self.last)


@dataclass(frozen=True)
class SeriesExamples(Examples):
    """Examples whose judged targets are centre, scale and horizon values in the units of the series, float64.

    Args:
        known: Training windows with such targets, for the training loss.
    """

    known: MicroBatch

    @property
    def training_sample(self) -> MicroBatch:
        return self.known


class ForecastTraining(SampleTraining):
    """Forecast series; also report MASE, sMAPE and the quantile loss."""

    group = "series"
    plan: ForecastTask

    @cached_property
    def examples(self) -> SeriesExamples:
        divided, context = self.plan.split_series, self.plan.context
        windows, values = divided.training(context), torch.from_numpy(self.plan.inputs)
        start, lowest = torch.from_numpy(windows.start), torch.from_numpy(windows.first)
        inputs = Slices(values, start, lowest, -context, 0)
        targets = Slices(values, start, lowest, 0, divided.horizon)
        few = np.linspace(0, len(windows) - 1, min(SEEN, len(windows))).astype(np.int64)
        some = ForecastWindows(windows.start[few], windows.first[few], windows.series[few])
        return SeriesExamples(
            (cast(Tensor, inputs), cast(Tensor, targets)),
            *(self._judged(part) for part in (divided.held_out, divided.test, some)),
        )

    def _judged(self, windows: ForecastWindows) -> MicroBatch:
        """Return windows with targets as they are judged."""
        divided = self.plan.split_series
        inputs = torch.from_numpy(self.plan.inputs[windows.past(self.plan.context)])
        about = np.stack([one[windows.series] for one in (divided.centres, divided.scales)], 1)
        return inputs, torch.from_numpy(np.concatenate([about, divided.truth(windows)], 1))

    def default_loss(self) -> Loss:
        levels = self.plan.options.quantiles
        return QuantileLoss(levels) if levels else SquaredError()

    def evaluate(self, trainer: Trainer, samples: MicroBatch, model: nn.Module | None = None) -> ForecastScores:
        levels, about = self.plan.options.quantiles, samples[1].numpy()
        outputs = model_outputs(trainer.model if model is None else model, samples, **trainer.evaluation).double()
        forecast = unscale_outputs(outputs.numpy(), about[:, 0], about[:, 1], len(levels))
        return ForecastScores.of(forecast, about[:, 2:], about[:, 1], levels)

    def curve_point(self, trainer: Trainer) -> Mapping[str, float]:
        scores = self.evaluate(trainer, self.held_out)
        return {"val_loss": scores.loss, "mase": scores.mase}
