"""A training that forecasts time series, as options and numbers: what is read, how it is split, and the plan."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.options.declare import fixed_option
from evo_tune.training.recipe.classifying import EncoderOptions, SampleTask, TableOptions
from evo_tune.training.recipe.data.forecasts import SplitSeries, split_series
from evo_tune.training.recipe.data.series import SeriesData, find_series, passengers
from evo_tune.training.recipe.data.tables import data_hash, read_file
from evo_tune.training.recipe.data.times import STEPS

# Lengths of the past that a gene offers, in seasons, or in steps of `NO_SEASON` where there is none.
CONTEXTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)

# Unit of `CONTEXTS` without a season, and the shortest past in steps.
NO_SEASON, SHORTEST = 8, 8

# Lengths of a patch that a gene offers.
PATCH_LENGTHS = (2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class ForecastOptions(TableOptions, EncoderOptions):
    """The series."""

    dropped: ClassVar[dict[str, object]] = {"exponential_smoothing": True}  # options of earlier versions

    data: str = fixed_option("", help="CSV or Parquet file; empty: airline passengers in 144 months")
    time: str = fixed_option("", help="The time column; empty: the only one with times")
    key: str = fixed_option("", help="Column that tells series apart; empty: each column of numbers is a series")
    target: str = fixed_option("", help="Columns to forecast, with commas between them; empty: all others")
    known: str = fixed_option("", help="Columns known ahead, such as prices, which help to forecast, with commas")
    past: str = fixed_option("", help="Columns known up to the last value, which help to forecast, with commas")
    horizon: int | None = fixed_option(
        None, bounds="[1, 10000]", unit="steps", help="Steps to forecast; none: as usual for the frequency"
    )
    season: int | None = fixed_option(
        None, bounds="[1, 100000]", unit="steps", help="Steps of a season; none: by the frequency; 1: none"
    )
    step: str = fixed_option(
        "auto", choices=("auto", *STEPS), help="Step to which values are averaged; auto: irregular times only"
    )
    loss: Literal["quantile", "mse"] = fixed_option(
        "quantile", help="Loss: of the quantiles in levels, or the squared error of a mean"
    )
    levels: str = fixed_option("0.1,0.5,0.9", help="Quantiles to forecast, 0.5 among them, with commas between")

    def check(self) -> None:
        """Require quantiles in order, with the median, and a file where columns are named.

        Raises:
            OptionError: They are not.
        """
        try:
            levels = [float(level) for level in self.levels.split(",")]
        except ValueError:
            levels = []
        if 0.5 not in levels or levels != sorted(set(levels)) or not 0.0 < levels[0] <= levels[-1] < 1.0:
            expected = "rising numbers between 0 and 1, 0.5 among them, such as 0.1,0.5,0.9"
            raise OptionError(f"-o levels={self.levels}: expected {expected}")
        columns = [name for name in ("time", "key", "target", "ignore", "known", "past") if getattr(self, name)]
        if columns and not self.data:
            raise OptionError(f"-o {columns[0]} names a column of a file: give one with -o data=FILE")

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantiles to forecast; empty: the mean."""
        return tuple(float(level) for level in self.levels.split(",")) if self.loss == "quantile" else ()

    @property
    def _source(self) -> tuple[Any, ...]:
        names = ("time", "key", "target", "ignore", "season", "step", "known", "past")
        return self.data, *((name, getattr(self, name)) for name in names)

    @property
    def series_data(self) -> SeriesData:
        """The series in the file."""
        return _read_series(self._source)

    @property
    def split_series(self) -> SplitSeries:
        """The series with their split.

        Raises:
            OptionError: The file cannot be read, or no series of it can be used.
        """
        return _read_split_series(self._source, self.horizon, self.validation, self.test)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the series and of how they are split."""
        split = self.split_series
        names = [series.name for series in split.series]
        fields = asdict(self.series_data.format)
        layout = {name: value for name, value in fields.items() if value or name == "key"}  # as before other fields
        description = f"{layout}{names}{split.horizon}{self.quantiles}".encode()
        covariates = [split.inputs] if split.inputs.ndim > 1 else []
        return data_hash(description, split.values, split.observed, split.ends, *covariates)

    def contexts(self) -> tuple[list[int], int]:
        """Return the lengths of the past to choose from, and the default.

        They leave at least half of the windows of a usual series. The default is near three horizons or seasons.
        """
        split, limit = self.split_series, 1024 if self.size == "large" else 512
        usual_length = int(np.median(split.ends[:, 0]))
        limit = max(SHORTEST, min(limit, (usual_length - split.horizon) // 2))
        season = split.season if 1 < split.season <= limit else NO_SEASON
        contexts = [seasons * season for seasons in CONTEXTS if SHORTEST <= seasons * season <= limit] or [limit]
        target = 3 * max(season, split.horizon)
        return contexts, min(contexts, key=lambda context: abs(context - target))

    def lines(self) -> list[str]:
        """Return what was found in the file and how it is split, a line each."""
        split, lines = self.split_series, self.series_data.lines()
        (training, judged), count = split.ends.sum(0), len(split.values)
        validation, test = map(self.series_data.format.grid.format_time, split.cuts)
        lines.append(
            f"horizon {split.horizon}; all series are divided at the same times: {training} values before {validation} "
            f"to train on, {judged - training} before {test} for validation ({len(split.held_out)} windows), and "
            f"{count - judged} for the test ({len(split.test)} windows)"
        )
        if early := int((split.ends[:, 0] == [len(series) for series in split.series]).sum()):
            lines.append(f"{early} series end before {validation}, so they are used for training only")
        if split.left_out:
            name, reason = next(iter(split.left_out.items()))
            lines.append(f"{len(split.left_out)} series are left out: {name!r}, as {reason}, for one")
        return lines


@lru_cache(maxsize=1)  # a worker trains on the same series repeatedly
def _read_series(source: tuple[Any, ...]) -> SeriesData:
    data, *settings = source
    frame = read_file(data) if data else passengers()
    try:
        return find_series(frame, **dict(settings))
    except OptionError as error:
        raise OptionError(f"-o data={data}: {error}") from None


@lru_cache(maxsize=1)
def _read_split_series(source: tuple[Any, ...], horizon: int | None, validation: float, test: float) -> SplitSeries:
    data = _read_series(source)
    horizon = horizon or data.format.grid.horizon
    season, covariates = data.format.season, data.format.covariates
    shares = {"validation": validation, "test": test}
    return split_series(data.series, horizon=horizon, season=season, inputs=covariates, **shares)


@dataclass(frozen=True, kw_only=True)
class ForecastTask(SampleTask):
    """A training that forecasts series; `inputs` are those of `SplitSeries`.

    Args:
        split_series: The series and their split.
        context: Values of the past that the model reads.
    """

    options: ForecastOptions
    split_series: SplitSeries
    context: int

    @property
    def targets(self) -> NDArray[Any]:
        """Values to forecast, standardised; NaN where the file had none."""
        return np.where(self.split_series.observed, self.split_series.standardised, np.float32(np.nan))

    @property
    def parts(self) -> tuple[NDArray[np.int64], ...]:
        """Places of the first value to forecast of each window: training, validation and test."""
        split = self.split_series
        return split.training(self.context).start, split.held_out.start, split.test.start
