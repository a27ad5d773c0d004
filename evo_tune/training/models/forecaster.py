"""A Transformer that forecasts time series from patches of their past."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
from evo_tune.training.recipe.data.forecasts import Smoothing, naive_error
from evo_tune.training.recipe.data.series import Series, SeriesFormat, standardise_covariates
from evo_tune.training.recipe.models.encoder_config import PatchConfig

# Added to the variance of a window, in squared units of the series' scale.
EPS = 1e-5


class Forecaster(Encoder):
    """PatchTST (Nie et al., arXiv:2211.14730): each series is forecast from its own past, all by the same weights.

    A window is standardised by its own mean and deviation, and the forecast gets them back (RevIN, Kim et al. 2022,
    without its learnt scale). With `smoothing`, it gets the forecast of exponential smoothing in place of the mean, so
    that the blocks learn what that leaves, as in the hybrid of Smyl (2020).

    Covariates of the past are further channels of the patches. A perceptron turns those that are known ahead into an
    additive effect at each step, which is subtracted from the past and added to the forecast, as in a regression whose
    errors are a series.

    Args:
        config: Shape of the model.
        seed: Seed of the initial weights.
        series: Layout of series in a table; required by `read`.
        scales: Centre and scale of each series of the training data, by name (see `SplitSeries`).
        offsets: What calibrates the quantiles (see `conformal_offsets`); empty: they are as the model gives them.
        covariate_scales: Mean and standard deviation of each covariate (see `SplitSeries`).
    """

    config_class = PatchConfig
    config: PatchConfig
    smoothing_weights: Tensor
    smoothing_spread: Tensor

    def __init__(
        self,
        config: PatchConfig,
        seed: int = 0,
        *,
        series: SeriesFormat | None = None,
        scales: Mapping[str, tuple[float, float]] | None = None,
        offsets: Sequence[Sequence[float]] = (),
        covariate_scales: Sequence[Sequence[float]] = (),
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

        self.covariate_scales = np.array(covariate_scales, float).reshape(-1, 2)
        counts = config.past, config.known, config.past + config.known
        fits = series is None or counts == (len(series.past), len(series.known), len(self.covariate_scales))
        if not (fits and np.isfinite(self.covariate_scales).all() and (self.covariate_scales[:, 1] > 0.0).all()):
            raise RecipeError("covariate_scales", covariate_scales, f"means and deviations of {counts[2]} covariates")

    def build(self, config: PatchConfig) -> None:
        """Build the embeddings of patches and positions, and the effect of covariates that are known ahead."""
        self.patches = nn.Linear(config.patch * (1 + config.past), config.width)
        self.positions = nn.Embedding(config.tokens, config.width)
        if config.known:
            layers = {"hidden": nn.Linear(config.known, config.width), "out": nn.Linear(config.width, 1)}
            self.effect = nn.ModuleDict(layers)  # zero at first, as all weights of the name `out`
        if config.smoothing:
            self.register_buffer("smoothing_weights", torch.zeros(config.context, config.horizon))
            self.register_buffer("smoothing_spread", torch.zeros(config.outputs))

    def set_smoothing(self, smoothing: Smoothing) -> None:
        """Set the forecast to which that of the blocks is added."""
        self.smoothing_weights.copy_(torch.from_numpy(smoothing.weights))
        self.smoothing_spread.copy_(torch.from_numpy(smoothing.spread).flatten())

    def forward(self, window: Tensor) -> Tensor:
        """Return the standardised forecast, (batch, horizon · levels), of standardised values.

        Args:
            window: (batch, context), or with covariates (batch, context + horizon, 1 + past + known): the series,
                covariates of the past and those known ahead; of the horizon only the last are read.
        """
        config, context = self.config, self.config.context
        channels = window[:, None] if window.ndim == 2 else window[:, :context, : 1 + config.past].transpose(1, 2)
        past = channels[:, 0]
        if config.known:
            hidden = F.gelu(self.effect["hidden"](window[..., 1 + config.past :]))
            effect = self.effect["out"](hidden)[..., 0].float()
            past = past - effect[:, :context]
        mean = past.mean(1, keepdim=True)
        deviation = (past.var(1, keepdim=True, correction=0) + EPS).sqrt()
        channels = torch.cat([((past - mean) / deviation)[:, None], channels[:, 1:]], 1)
        x = F.pad(channels, (0, config.stride), mode="replicate").unfold(2, config.patch, config.stride)
        x = x[:, :, : config.tokens].transpose(1, 2).flatten(2)
        x = self.encode(self.patches(x) + self.positions.weight)
        levels = max(1, len(config.levels))
        if config.smoothing:
            # 8 bits of a value are too few. The device "meta" has no autocast.
            with nullcontext() if past.is_meta else torch.autocast(past.device.type, enabled=False):
                smoothed = past.float() @ self.smoothing_weights
            start = smoothed.repeat_interleave(levels, 1) + self.smoothing_spread
        else:
            start = mean
        forecast: Tensor = self.head(x.flatten(1)).float() * deviation + start
        if config.known:
            forecast = forecast + effect[:, context:].repeat_interleave(levels, 1)
        return forecast

    def prepare(self, series: Sequence[Series]) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64]]:
        """Return the standardised past of series; a shorter past than the context is extended by its first value.

        A series whose name is not of the training data is scaled by its own values.

        Returns:
            Inputs, see `forward`, and centre and scale of each series, (series,), see `SplitSeries`.

        Raises:
            OptionError: A covariate that is known ahead is missing in the horizon.
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
        inputs = ((past - centres_and_scales[:, :1]) / centres_and_scales[:, 1:]).astype(np.float32)
        if self.config.past or self.config.known:
            inputs = np.array([self._window(single, row) for single, row in zip(series, inputs, strict=True)])
        return torch.from_numpy(inputs), centres_and_scales[:, 0], centres_and_scales[:, 1]

    def _window(self, series: Series, past: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the standardised past of a series with its covariates, see `forward`."""
        assert self.series is not None
        assert series.covariates is not None
        context, horizon, end = self.config.context, self.config.horizon, len(series)
        covariates = np.concatenate([series.covariates, np.full((horizon, series.covariates.shape[1]), np.nan)])
        if (missing := np.argwhere(np.isnan(covariates[end : end + horizon, self.config.past :]))).size:
            step, number = missing[0].tolist()
            time = self.series.grid.format_time(series.first + end + step)
            raise OptionError(
                f"series {series.name!r}: column {self.series.known[number]!r} has no value at {time}: expected rows "
                f"for the {horizon} steps to forecast, in which {self.series.targets[0]!r} is empty"
            )
        places = np.maximum(0, np.arange(-context, horizon) + end)
        standardised = standardise_covariates(covariates, self.covariate_scales)[places]
        return np.column_stack([np.pad(past, (0, horizon)), standardised])

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
        calibration = {"offsets": self.offsets, "covariate_scales": self.covariate_scales.tolist()}
        return {"model": self.config.to_json(), "series": series, "scales": self.scales, **calibration}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Forecaster":
        series = msgspec.convert(data["series"], SeriesFormat | None)
        config = PatchConfig.from_json(data["model"])
        calibration = {name: data.get(name, ()) for name in ("offsets", "covariate_scales")}
        return cls(config, series=series, scales=data["scales"], **calibration)
