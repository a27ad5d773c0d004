"""A PatchTST on time series: CSV or Parquet, or airline passengers; minimises val_loss (scaled quantile loss).

`-o data=FILE` names a table with a time column (`-o time=`). Each column of numbers is a series (`-o target=a,b`), or
one column is, with a key that tells several series apart (`-o key=shop -o target=sold`). The model reads the last
`context` steps of a series and forecasts the next `-o horizon=` at once, as quantiles (`-o levels=0.1,0.5,0.9`) or as a
mean (`-o loss=mse`). All series share the weights, and each is forecast from its own past and from its covariates
(`-o known=price,promo`, `-o past=visits`).

The frequency is found, and with it the season (`-o season=`) and a horizon. A missing value takes that of a season
before and is not scored; more than a fifth missing is refused. All series are divided at the same two times: the last
fifth is the test part (`-o test=`), the fifth before it judges trials (`-o validation=`). No training window reaches
into these parts.
Losses are in units of each series' scale, the mean absolute error of the seasonal naive forecast in its training part,
so that MASE and losses compare series of any size.

The baseline is the seasonal naive forecast on the same windows; a run compares the best trial with it. With
`-o compare=theta`, each trial has the scores of statsmodels' Theta method too, as theta_loss and theta_mase (extra
`series`).

The default genome is PatchTST (Nie et al., arXiv:2211.14730: patches that overlap by half, dropout 0.2, windows that
are standardised by themselves) in a size that fits the data, with layer norms in place of batch norms. Its output is
added to the forecast of seasonal exponential smoothing. How to train is
`evo_tune.training`'s. The parent process imports this file too, so torch is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evo_tune import Choice, Float, Int, Minimize, SearchSpace, option
from evo_tune.training.recipe import (
    LARGEST_SMOOTHING,
    PATCH_LENGTHS,
    UNIT_COSTS,
    EncoderSize,
    ForecastOptions,
    ForecastScores,
    ForecastTask,
    PatchConfig,
    SplitSeries,
    StoppingOptions,
    encoder_estimate,
    encoder_step_work,
    fit_smoothing,
    metric_units,
    metric_values,
    names_on_test_set,
    redeclare,
    repair_heads,
    seasonal_naive,
    theta_forecast,
)

if TYPE_CHECKING:
    from evo_tune import Context
    from evo_tune.training import Forecaster, Ranks

OBJECTIVES = [Minimize("val_loss")]

METRICS = metric_units("series", "theta")
TEST = names_on_test_set("series")
SUPPORTS = ["budget", "curve", "timing"]
CPU_COSTS = UNIT_COSTS
BASELINE = "the seasonal naive forecast"


@dataclass(frozen=True, kw_only=True)
class Size(EncoderSize):
    """A search space of forecasts."""

    patch: int
    """The default length of a patch."""


Method = Callable[[SplitSeries, Any, Sequence[float]], Any]
"""Returns the forecasts of windows; see `seasonal_naive`."""

SIZES = {
    "small": Size(
        flops=3e10,
        lr=Float(1e-4, 3e-2, log=True, default=1e-3),
        batch=Choice((32, 64, 128, 256), ordered=True, default=32),
        depth=Int(1, 4, default=2),
        width=Int(16, 64, step=8, default=32),
        heads=Int(1, 8, default=4),
        patch=8,
    ),
    "large": Size(
        flops=1e14,
        lr=Float(1e-5, 3e-3, log=True, default=1e-4),
        batch=Choice((128, 256, 512, 1024), ordered=True, default=128),
        depth=Int(1, 6, default=3),
        width=Int(64, 512, step=64, default=128),
        heads=Int(1, 16, default=16),
        patch=16,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options(ForecastOptions):
    """What it is compared with."""

    sizes = SIZES

    compare: Literal["none", "theta"] = option(
        "none", gene=None, help="A method that is scored on the same windows: theta, of statsmodels"
    )
    evaluations: int = redeclare(StoppingOptions, "evaluations", 32, reason="often, so that patience stops in time")
    patience: int | None = redeclare(StoppingOptions, "patience", 8, reason="few values are soon learnt by heart")


def fingerprint(options: Options) -> str:
    """Return the SHA-256 of the series and of how they are split."""
    return options.fingerprint()


def describe(options: Options) -> list[str]:
    """Return what was found in the file, a line each."""
    return options.lines()


# ---------------------------------------------------------------- to compare with


def baseline(options: Options) -> dict[str, float]:
    """Return the metrics of the seasonal naive forecast on the same windows."""
    from evo_tune.training import score_metrics

    series, levels = options.split_series, options.quantiles
    return score_metrics("series", *(_scores(series, levels, seasonal_naive, test) for test in (False, True)))


@lru_cache(maxsize=2)  # once per worker
def _scores(series: SplitSeries, levels: tuple[float, ...], method: Method, test: bool = False) -> ForecastScores:
    """Return how well a method forecasts the windows of a part."""
    windows = series.test if test else series.held_out
    forecast = method(series, windows, levels)
    return ForecastScores.of(forecast, series.truth(windows), series.scales[windows.series], levels)


# ---------------------------------------------------------------- the space


def search_space(options: Options) -> SearchSpace:
    """Return the genes under these options and for series of this length.

    Raises:
        OptionError: An option is out of its range, or the series cannot be used.
    """
    size, (contexts, usual) = SIZES[options.size], options.contexts()
    patches = [patch for patch in PATCH_LENGTHS if patch <= contexts[-1] // 2]

    def repair(genome: dict[str, Any]) -> dict[str, Any]:
        fits = [patch for patch in patches if patch <= min(genome["patch"], genome["context"])]
        return repair_heads({**genome, "patch": fits[-1]}, size.heads.high)

    return SearchSpace(
        repair,
        **size.steps(options.lr_factor),
        context=Choice(contexts, ordered=True, default=usual),
        patch=Choice(patches, ordered=True, default=max(patch for patch in patches if patch <= min(size.patch, usual))),
        **size.shape,
        ffn_mult=Float(1.0, 4.0, default=2.0),
        dropout=Float(0.0, 0.5, default=0.2),
        weight_decay=Float(1e-5, 0.3, log=True, default=1e-2),
        warmup=Float(0.0, 0.1, default=0.05),
    ).near_default()


SPACE = search_space


def _config(genome: Mapping[str, Any], options: Options) -> PatchConfig:
    levels, horizon, format = options.quantiles, options.split_series.horizon, options.series_data.format
    return PatchConfig(
        outputs=horizon * max(1, len(levels)),
        horizon=horizon,
        levels=levels,
        past=len(format.past),
        known=len(format.known),
        smoothing=genome["context"] * horizon <= LARGEST_SMOOTHING,
        scaling=options.scaling,
        **{name: genome[name] for name in ("context", "patch", "depth", "width", "heads", "ffn_mult", "dropout")},
    )


def _workload(genome: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return the model's shape, the number of training samples, the FLOPs of one, and that of held-out samples."""
    config, series = _config(genome, options), options.split_series
    rows, held_out = len(series.training(config.context)), len(series.held_out)
    return {"config": config, "rows": rows, "flops_per_sample": config.flops_per_sample, "held_out": held_out}


def estimate(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return what is known before training: params, gpu_memory, and flops and samples of the full training."""
    return encoder_estimate(genome, options, **_workload(genome, options))


def work(genome: Mapping[str, Any], options: Options) -> dict[str, float]:
    """Return the work of a step, whose cost a run measures."""
    return encoder_step_work(genome, options, **_workload(genome, options))


# ---------------------------------------------------------------- the training


def _task(genome: Mapping[str, Any], options: Options) -> ForecastTask:
    """Return a genome as a training."""

    def build(seed: int) -> Forecaster:
        from evo_tune.training import Forecaster

        numbers = zip(series.series, series.centres.tolist(), series.scales.tolist(), strict=True)
        scales = {single.name: (centre, scale) for single, centre, scale in numbers}
        covariates = series.covariate_scales.tolist()
        format = options.series_data.format
        model = Forecaster(config, seed=seed, series=format, scales=scales, covariate_scales=covariates)
        if config.smoothing:
            model.set_smoothing(fit_smoothing(series, config.context, config.levels))
        return model

    series, config = options.split_series, _config(genome, options)
    return ForecastTask(
        options=options,
        genome=genome,
        build=build,
        inputs=series.inputs,
        split_series=series,
        context=config.context,
        flops_per_sample=config.flops_per_sample,
        reference=SIZES[options.size].batch.values[0],
        data=fingerprint(options),
        work=work(genome, options),
    )


def evaluate(genome: Mapping[str, Any], context: Context, options: Options) -> dict[str, float]:
    """Train one genome and judge it on the validation windows.

    Returns:
        Metrics of METRICS; resumed_step if the training continued from a checkpoint.

    Raises:
        Diverged: The training was lost.
    """
    from evo_tune.training import ForecastTraining, evaluate_task

    metrics = evaluate_task(_task(genome, options), ForecastTraining, train_rank, context)
    if options.compare == "none":
        return metrics
    return metrics | metric_values(_scores(options.split_series, options.quantiles, theta_forecast), "theta")


def train_rank(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, genome: Any, run: Any, options: Any
) -> dict[str, float]:
    """Be one of the processes that train together."""
    from evo_tune.training import ForecastTraining, RankRun, train

    return train(_task(genome, Options(**options)), RankRun.of(ranks, tell, run), ForecastTraining, ranks)[1]


# ---------------------------------------------------------------- the model, to keep


def export(genome: Mapping[str, Any], context: Context, folder: Path | str, options: Options) -> dict[str, float]:
    """Train a genome once more and write it as something to use: weights and config.json.

    One process trains, with any value of ranks. Returns what `evaluate` returns, other methods aside.
    """
    from evo_tune.training import ForecastTraining, export_encoder

    return export_encoder(_task(genome, options), context, folder, ForecastTraining)
