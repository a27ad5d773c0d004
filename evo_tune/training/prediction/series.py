"""Time series for an exported model: a table of the past in, the forecasts of its next steps out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.errors import RecipeError, UsageError
from evo_tune.training import Forecaster, model_outputs
from evo_tune.training.prediction.about import TrainingFacts
from evo_tune.training.prediction.memory import InputSize
from evo_tune.training.prediction.model import Part, Reader, SampleModel
from evo_tune.training.prediction.readers import join_names
from evo_tune.training.recipe import ForecastScores, Series
from evo_tune.training.recipe.data.forecasts import move_bands, unscale_outputs
from evo_tune.training.recipe.data.tables import read_file

if TYPE_CHECKING:
    import pandas as pd


class Past(Reader):
    """The past of one or several series, in a table as in training.

    Args:
        about: See `Reader`.
        network: The model, which knows the columns.
    """

    kind = "time-series"

    def __init__(self, about: TrainingFacts, network: Forecaster) -> None:
        super().__init__(about)
        if network.series is None:
            raise RecipeError("series", None, "the columns and the frequency, as export writes them")
        self.network, self.format = network, network.series

    def size(self, data: Any) -> InputSize:
        return InputSize(len(self.series(data)), self.network.config.window_values)

    def encode(self, data: Any) -> Tensor:
        return self.network.prepare(self.series(data))[0]

    def series(self, data: Any) -> list[Series]:
        """Return the series of a table.

        Raises:
            UsageError: The table does not fit the model.
        """
        if not (hasattr(data, "columns") or hasattr(data, "keys")):
            raise UsageError("expected a table with the columns of the training table, such as a DataFrame")
        if unknown := [str(name) for name in data if str(name) not in self.format.columns]:
            self.remarks["columns"] = f"columns that the model does not know are ignored: {join_names(unknown)}"
        all_series = self.network.read(data)
        if unseen := [series.name for series in all_series if series.name not in self.network.scales]:
            self.remarks["series"] = f"series that the model never saw are scaled by themselves: {join_names(unseen)}"
        return all_series

    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        if keep:
            raise UsageError(f"--keep {keep[0]}: a forecast has no row of INPUT: leave it out")
        if not path.is_file():
            raise UsageError(f"INPUT {path} is no file: expected a CSV or Parquet file")
        frame = read_file(str(path))
        keys = self.network.keys(self.series(frame))
        yield Part(frame, len(next(iter(keys.values()))), keys)  # type: ignore[arg-type]


class ForecastModel(SampleModel[Past]):
    """A model that forecasts the next steps of time series."""

    kind = "forecasting"

    def predict(self, data: Any) -> pd.DataFrame:
        """Return the forecast of what follows the last value of each series.

        Args:
            data: Table with the columns of the training table: DataFrame, or mapping of column names to values.
                Covariates that are known ahead need rows for the steps to forecast, in which the target is missing.

        Returns:
            The time, the series' name, and a column for each quantile, such as 0.1, or mean; a row per step.

        Raises:
            UsageError: The table does not fit the model.
        """
        import pandas as pd

        keys = self.reader.network.keys(self.reader.series(data))
        return cast("pd.DataFrame", pd.DataFrame({**keys, **self.columns(self.outputs(data))}))

    def outputs(self, data: Any) -> NDArray[np.float64]:
        """Return the forecasts in the units of the series, (series · horizon, quantiles)."""
        return self._forecast(self.reader.series(data)).reshape(-1, len(self.reader.network.columns))

    def _forecast(self, series: Sequence[Series]) -> NDArray[np.float64]:
        network = self.reader.network
        self.require_memory(InputSize(len(series), network.config.window_values))
        inputs, centres, scales = network.prepare(series)
        with self.computing() as how:
            outputs = model_outputs(network, (inputs, inputs), batch=self.reader.batch, **how).double().numpy()
        levels = network.config.levels
        return move_bands(unscale_outputs(outputs, centres, scales, len(levels)), network.offsets, scales, levels)

    def evaluate(self, data: Any, truth: Sequence[Any] | None = None) -> dict[str, float]:
        """Forecast the last horizon of each series from the values before it, and return the scores.

        Args:
            data: See `predict`. Series that are too short are left out.
            truth: Not used: the values to forecast are the last ones in the data.

        Raises:
            UsageError: The table does not fit the model, or no series is long enough.
        """
        network = self.reader.network
        steps = network.config.horizon
        series = [single for single in self.reader.series(data) if len(single.values) > steps]
        if not series:
            raise UsageError(f"no series has more than {steps} values, the horizon: expected a past before it")
        past = [replace(single, values=single.values[:-steps], observed=single.observed[:-steps]) for single in series]
        values = np.array([np.where(single.observed, single.values, np.nan)[-steps:] for single in series])
        scales = network.prepare(past)[2]
        return dict(vars(ForecastScores.of(self._forecast(past), values, scales, network.config.levels)))

    def columns(self, outputs: NDArray[np.float64]) -> dict[str, Any]:
        return dict(zip(self.reader.network.columns, outputs.T, strict=True))
