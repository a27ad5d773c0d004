"""A Transformer that forecasts time series from patches of their past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from evo_tune.errors import OptionError, RecipeError
from evo_tune.training.models.encoder import Encoder
from evo_tune.training.recipe.data.forecasts import naive_error
from evo_tune.training.recipe.data.series import Series, SeriesFormat
from evo_tune.training.recipe.models.encoder_config import PatchConfig

# Added to the variance of a window, in squared units of the series' scale.
EPS = 1e-5


class Forecaster(Encoder):
    """PatchTST (Nie et al., arXiv:2211.14730): each series is forecast from its own past, all by the same weights.

    A window is standardised by its own mean and deviation, and the forecast gets them back (RevIN, Kim et al. 2022,
    without its learnt scale).

    Args:
        config: Shape of the model.
        seed: Seed of the initial weights.
        series: Layout of series in a table; required by `read`.
        scales: Centre and scale of each series of the training data, by name (see `SplitSeries`).
        offsets: What calibrates the quantiles (see `conformal_offsets`); empty: they are as the model gives them.
    """

    config_class = PatchConfig
    config: PatchConfig

    def __init__(
        self,
        config: PatchConfig,
        seed: int = 0,
        *,
        series: SeriesFormat | None = None,
        scales: Mapping[str, tuple[float, float]] | None = None,
        offsets: Sequence[Sequence[float]] = (),
    ) -> None:
        super().__init__(config, seed)
        self.series = series
        self.scales = {name: (float(centre), float(scale)) for name, (centre, scale) in (scales or {}).items()}
        for name, (centre, scale) in self.scales.items():
            if not (np.isfinite(centre) and 0.0 < scale < np.inf):
                raise RecipeError("scales", {name: (centre, scale)}, "finite numbers, the scale above 0")
        self.offsets = [[float(number) for number in row] for row in offsets]
        shape = (len(config.levels), config.horizon)
        if self.offsets and (np.shape(self.offsets) != shape or not np.isfinite(self.offsets).all()):
            raise RecipeError("offsets", np.shape(self.offsets), f"finite numbers in lists of shape {shape}")

    def build(self, config: PatchConfig) -> None:
        """Build the embeddings of patches and positions."""
        self.patches = nn.Linear(config.patch, config.width)
        self.positions = nn.Embedding(config.tokens, config.width)

    def forward(self, past: Tensor) -> Tensor:
        """Return the standardised forecast, (batch, horizon · levels), of standardised values, (batch, context)."""
        config = self.config
        mean = past.mean(1, keepdim=True)
        deviation = (past.var(1, keepdim=True, correction=0) + EPS).sqrt()
        x = F.pad((past - mean) / deviation, (0, config.stride), mode="replicate")
        x = x.unfold(1, config.patch, config.stride)[:, : config.tokens].contiguous()
        x = self.encode(self.patches(x) + self.positions.weight)
        forecast: Tensor = self.head(x.flatten(1)).float() * deviation + mean
        return forecast

    def prepare(self, series: Sequence[Series]) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64]]:
        """Return the standardised past of series; a shorter past than the context is extended by its first value.

        A series whose name is not of the training data is scaled by its own values.

        Returns:
            Inputs, (series, context), and centre and scale of each series, (series,), see `SplitSeries`.
        """
        assert self.series is not None
        context, season = self.config.context, self.series.season
        rows = []
        for single in series:
            error = naive_error(single.values, single.observed, season)
            centre = float(single.values[single.observed].mean())
            rows.append(self.scales.get(single.name, (centre, error if error > 0 else 1.0)))
        centres_and_scales = np.array(rows)
        places = [np.maximum(0, np.arange(-context, 0) + len(single.values)) for single in series]
        past = np.array([single.values[numbers] for single, numbers in zip(series, places, strict=True)])
        standard = ((past - centres_and_scales[:, :1]) / centres_and_scales[:, 1:]).astype(np.float32)
        return torch.from_numpy(standard), centres_and_scales[:, 0], centres_and_scales[:, 1]

    def read(self, table: Mapping[str, Any]) -> list[Series]:
        """Return the series of a table, such as a DataFrame, that have values.

        Raises:
            OptionError: A column is missing or has unusable values, or the frequency is another one.
            RecipeError: The model was built without a format of series.
        """
        if self.series is None:
            raise RecipeError("series", None, "a model that was built with series=SeriesFormat(…)")
        series = [single for single in self.series.read(table) if len(single.values)]
        if not series:
            raise OptionError(f"none of the columns {', '.join(self.series.targets)} has a value to forecast from")
        return series

    def keys(self, series: Sequence[Series]) -> dict[str, NDArray[Any]]:
        """Return the times and names of forecasts, by name of the column: `horizon` rows for each series."""
        assert self.series is not None
        steps = np.arange(self.config.horizon)
        times = [self.series.grid.times(single.first + len(single.values) + steps) for single in series]
        names = np.repeat([single.name for single in series], len(steps))
        dates: Any = np.concatenate(times)
        if self.series.utc:
            import pandas as pd

            dates = pd.to_datetime(dates, utc=True)
        return {self.series.time: dates, self.series.key or "series": names}

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a forecast."""
        return [str(level) for level in self.config.levels] or ["mean"]

    def to_json(self) -> dict[str, Any]:
        series = None if self.series is None else asdict(self.series)
        return {"model": self.config.to_json(), "series": series, "scales": self.scales, "offsets": self.offsets}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Forecaster:
        series = msgspec.convert(data["series"], SeriesFormat | None)
        config = PatchConfig.from_json(data["model"])
        return cls(config, series=series, scales=data["scales"], offsets=data.get("offsets", ()))
