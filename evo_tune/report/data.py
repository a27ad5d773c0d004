"""The parts of a saved run that commands print as JSON, as types, and the functions that fill them from a run.

`cli/formats.py`, `cli/output.py` and `cli/session.py` declare what else commands print. docs/json.md is generated from
the docstrings: an entry under `Args:` describes a key, and `Unit: s.` at its end gives the unit of the value.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from msgspec import Struct

from evo_tune.genome.trial import Trial
from evo_tune.genome.values import Genome, Metrics, Value
from evo_tune.report import summary
from evo_tune.report.charts.history import best_so_far
from evo_tune.report.charts.next_steps import genes_at_range_ends
from evo_tune.report.charts.scale import TransferredRecipe, read_recipe
from evo_tune.report.final_comparison import ComparisonState, PatchVerdict
from evo_tune.report.predictions import GeneEffect, Prediction, gene_effects, open_questions, predict_genomes
from evo_tune.report.recommendation import AgainstBaseline, FreshValues, comparison_objective, fit_patches, fresh_values
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import MoreTrials, predict_next_generation, present_ranges
from evo_tune.store.inbox import waiting_files
from evo_tune.store.run import Run
from evo_tune.store.run_folders import read_note
from evo_tune.text import show_value

StructT = TypeVar("StructT", bound=Struct)


class TrialSummary(Struct, forbid_unknown_fields=True, kw_only=True):
    """A trial: a genome and the result of its training.

    Args:
        id: Number of the trial in its run; trial 0 has the default genome.
        generation: Number of its generation, from 0.
        operator: Operator that made the genome: default, random, crossover, mutation, …
        genome: Values of the genes, by name.
        metrics: Values by name, means over seeds where there are several; null if not finite. Unit: the metric's.
        seconds: Duration of the training. Unit: s.
    """

    id: int
    generation: int
    operator: str
    genome: Genome
    metrics: Metrics
    seconds: float


class FreshSeeds(Struct, forbid_unknown_fields=True, kw_only=True):
    """Results of a genome with seeds that were not used to choose it.

    Args:
        metric: Metric that was measured: the first objective, on the test set if the evaluator has one.
        mean: Mean over the seeds; null without any. Unit: the metric's.
        error: Standard error of the mean; null for fewer than two seeds. Unit: the metric's.
        values: One value for each successful seed. Unit: the metric's.
        failed: Number of seeds whose training failed.
    """

    metric: str
    mean: float | None
    error: float | None
    values: tuple[float, ...]
    failed: int


class RankedTrial(TrialSummary, kw_only=True):
    """One of the best trials of a run.

    Args:
        fresh_seeds: Results with fresh seeds; null if there are none.
    """

    fresh_seeds: FreshSeeds | None


class Recommendation(TrialSummary, kw_only=True):
    """A trial that `best` recommends.

    Args:
        run: Name of the run.
        fresh_seeds: Results with fresh seeds; null if there are none.
    """

    run: str
    fresh_seeds: FreshSeeds | None


class Comparison(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Results of the final comparison so far.

    Args:
        best: The finalist that was chosen.
        default: The default genome.
        patches: Patches of the best genome, which was also trained without each of them.
    """

    best: FreshSeeds | None = None
    default: FreshSeeds | None = None
    patches: tuple[PatchVerdict, ...] = ()


class ComparedMeans(Struct, forbid_unknown_fields=True, kw_only=True):
    """The best trial, or the model trained from it, against something simpler, by one metric.

    Args:
        subject: best (trial) or model.
        other: default (genome), or the name of the evaluator's baseline.
        family: Family of the best trial's model; the evaluator's name without several families.
        metric: Metric of both means.
        mean: Mean of the subject over seeds. Unit: the metric's.
        other_mean: Mean of the other. Unit: the metric's.
        difference: By how much the subject is better, over the same seeds where both have several. Unit: the metric's.
        error: Standard error of the difference; null for one seed. Unit: the metric's.
        seeds: Number of seeds of the subject.
        better: Whether the subject is clearly better (see `verdict`); null if that is open.
    """

    subject: str
    other: str
    family: str
    metric: str
    mean: float
    other_mean: float
    difference: float
    error: float | None
    seeds: int
    better: bool | None


class RunSummary(Struct, forbid_unknown_fields=True, kw_only=True):
    """The state and the outcome of a run.

    Args:
        run: Name of the run.
        folder: Folder of the run.
        ended: Reason why its last session ended; null if the session was interrupted.
        metric: Metric of the first objective.
        direction: min or max.
        reported: Metric of the final comparison: the first objective, or its name on the test set.
        best: Recommended trial; null if no full training gave a value.
        default: Trial of the default genome; null if it failed.
        gain: Improvement of the best over the default, with the same fresh seeds. Unit: the metric's.
        gain_error: Standard error of the gain. Unit: the metric's.
        beaten: Whether the best beats the default (wrong in at most 5 % of runs); null if they were not compared.
        baseline: The evaluator's baseline beside the best; null if none was trained.
        final_comparison: Results with fresh seeds.
        at_ends: Genes whose best values are at an end of their range that the run does not widen by itself, each with a
            wider range for `--gene`.
        widened: Present range of each gene that was widened.
        more_trials: Expected benefit of more trials; null if too little is known.
        scale: Recipe at the size of `--for-scale`; null without that flag, or without a recipe so far.
        finalist: Trial that was chosen among the finalists; null without a final comparison.
        pairs: Number of seeds shared by best and default; null without a final comparison.
        results: Number of results so far.
        failed: Number of results that failed.
        pruned: Number of trainings that were stopped early.
        trainings: Cost of all results. Unit: full trainings.
        seconds: Time spent in all sessions. Unit: s.
        status: Progress message of the strategy; '' if it has none.
        report: File of the report; null if none was written.
    """

    run: str
    folder: str
    ended: str | None
    metric: str
    direction: str
    reported: str
    best: TrialSummary | None
    default: TrialSummary | None
    gain: float | None
    gain_error: float | None
    beaten: bool | None
    baseline: AgainstBaseline | None
    final_comparison: Comparison
    at_ends: dict[str, str]
    widened: dict[str, str]
    more_trials: MoreTrials | None
    scale: TransferredRecipe | None
    finalist: int | None
    pairs: int | None
    results: int
    failed: int
    pruned: int
    trainings: float
    seconds: float
    status: str
    report: str | None


class AutoModel(Struct, forbid_unknown_fields=True, kw_only=True):
    """The model at the end of `auto`.

    Args:
        run: Name of the run.
        evaluator: Evaluator that the data was taken for.
        why: Why, in words.
        model: Folder of the model.
        verdict: Verdict in lines: the model to use, how much better it is, and on which data this was measured.
        comparisons: The comparisons of the verdict, as numbers.
    """

    run: str
    evaluator: str
    why: str
    model: str
    verdict: list[str]
    comparisons: list[ComparedMeans]


class ListedRun(Struct, forbid_unknown_fields=True, kw_only=True):
    """A saved run, as one row of `list`.

    Args:
        run: Name of the run.
        evaluator: Evaluator as the run names it: bundled:NAME, entry:NAME or a file.
        strategy: Strategy, by name or file.
        results: Number of results so far.
        failed: Number of results that failed.
        objective: Metric of the first objective.
        best: Value of the best trial. Unit: the metric's.
        seeds: Seeds behind that value: one, several, or fresh ones.
        seconds: Time spent in all sessions. Unit: s.
        ended: Reason why its last session ended; null if it is running or was killed.
        created: Time at which the run began, in ISO 8601.
        state: running, ended or interrupted.
        note: The note that its user wrote.
    """

    run: str
    evaluator: str
    strategy: str
    results: int
    failed: int
    objective: str
    best: float | None
    seeds: str | None
    seconds: float
    ended: str | None
    created: str
    state: str
    note: str

    @property
    def best_text(self) -> str:
        """The best value with its metric, on the test set where fresh seeds have one; '' without a value."""
        metric = (self.seeds or "").partition(", ")[2] or self.objective
        return "" if self.best is None else f"{metric} {show_value(self.best)}"


class PatchState(Struct, forbid_unknown_fields=True, kw_only=True):
    """A patch of a run; `effects` has the effect of its gene.

    Args:
        name: Name of the patch.
        gene: Gene that switches it on.
        title: Line for people.
        trials: Number of results with it.
        failures: Number of these without a value.
        error: Error of the last of these; null without one.
        conflicts: Names of the patches that do not go together with it.
        gain: By how much it alone lowers the loss, by a model of all full trainings; null with too few. Unit: the
            metric's.
        gain_error: Standard deviation of the gain. Unit: the metric's.
    """

    name: str
    gene: str
    title: str
    trials: int
    failures: int
    error: str | None
    conflicts: list[str]
    gain: float | None
    gain_error: float | None


class RunDetails(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run with its settings, its results and its best trials.

    Args:
        run: Name of the run.
        evaluator: Evaluator as the run names it.
        options: Options of the evaluator, by name. Unit: the option's.
        objectives: METRIC:min or METRIC:max.
        strategy: Strategy, by name or file.
        settings: Settings of the run, by name (see settings.md). Unit: the setting's.
        subject_to: Constraints, as they were typed.
        trainings: Cost of all results. Unit: full trainings.
        ended: Reason why its last session ended; null if it is running or was killed.
        seconds: Time spent in all sessions. Unit: s.
        results: Number of results so far.
        statuses: Number of results by status: ok, failed, diverged, out_of_memory, crashed, timeout, pruned.
        best: Best trials, as many as `--top` says; the recommended one is first.
        front: Pareto front; with one objective, the best trial.
        best_so_far: Each improvement: evaluations until then, value of the first objective, trial.
        importances: Share of the spread of the first objective that each gene explains by itself.
        at_ends: Genes whose best values are at an end of their range that the run does not widen by itself, each with a
            wider range for `--gene`.
        widened: Present range of each gene that was widened.
        effects: Effect of each gene with several values, the largest first; empty with too few results.
        questions: What the results leave open, a sentence each.
        waiting: Number of genomes that were proposed from outside and that the run has not taken.
        predictions: Predicted values of the genomes of `--predict`.
        patches: Patches of the run, in the order in which they are applied.
    """

    run: str
    evaluator: str
    options: dict[str, Value | None]
    objectives: list[str]
    strategy: str
    settings: dict[str, Value | None]
    subject_to: list[str]
    trainings: float
    ended: str | None
    seconds: float
    results: int
    statuses: dict[str, int]
    best: list[RankedTrial]
    front: list[TrialSummary]
    best_so_far: list[tuple[int, float, int]]
    importances: dict[str, float]
    at_ends: dict[str, str]
    widened: dict[str, str]
    effects: dict[str, GeneEffect]
    questions: list[str]
    waiting: int
    predictions: list[Prediction]
    patches: list[PatchState]


def fill(kind: type[StructT], *sources: object, **values: Any) -> StructT:
    """Return a type with values, and with attributes of the sources, the first ones first, in place of those not given.

    Args:
        kind: The type.
        sources: Objects with attributes that have the names of fields.
        values: Values of fields by name.
    """
    for source in sources:
        names = [name for name in kind.__struct_fields__ if name not in values and hasattr(source, name)]
        values |= {name: getattr(source, name) for name in names}
    return kind(**values)


def trial_summary(trial: Trial) -> TrialSummary:
    """Return the printed part of a trial."""
    return fill(TrialSummary, trial, trial.candidate, trial.outcome)


def _fresh_seeds(row: FreshValues, metric: str) -> FreshSeeds:
    return FreshSeeds(metric=metric, mean=row.mean, error=row.error, values=row.values, failed=row.failures)


def _ranked_trials(run: Run, trials: Sequence[Trial]) -> list[RankedTrial]:
    """Return the printed part of some of the best trials of a run.

    Their `metrics` are those of the search: of one seed, or the mean over several.
    """
    rows, metric = {row.id: row for row in fresh_values(run)}, comparison_objective(run).metric
    fresh_seeds = {id: _fresh_seeds(row, metric) for id, row in rows.items()}
    return [fill(RankedTrial, trial_summary(trial), fresh_seeds=fresh_seeds.get(trial.id)) for trial in trials]


def recommendations(run: Run) -> list[Recommendation]:
    """Return the best trial of a run, or the Pareto front if it has several objectives."""
    trials = summary.best_trials(run, 1) if len(run.objectives) == 1 else summary.pareto_front(run)
    return [fill(Recommendation, trial, run=run.name) for trial in _ranked_trials(run, trials)]


def run_summary(run: Run, status: str = "", report: Path | None = None) -> RunSummary:
    """Return the state of a run.

    Args:
        run: The saved run.
        status: Progress message of its strategy.
        report: File of its report; None without one.
    """
    result = summary.RunResult(run)
    fresh_rows = {"best": result.fresh_best, "default": result.fresh_default}
    fresh_seeds = {name: _fresh_seeds(row, result.reported_metric) for name, row in fresh_rows.items() if row}
    comparison = result.comparison or ComparisonState()
    return fill(
        RunSummary,
        result,
        run=run.name,
        folder=str(run.folder),
        ended=run.ended,
        direction=run.objectives[0].direction,
        reported=result.reported_metric,
        best=None if result.best is None else trial_summary(result.best),
        default=None if result.default is None else trial_summary(result.default),
        final_comparison=Comparison(**fresh_seeds, patches=comparison.effects),
        at_ends=_wider_ranges(run),
        widened=present_ranges(run),
        more_trials=predict_next_generation(run),
        scale=read_recipe(run),
        finalist=comparison.chosen,
        pairs=comparison.pairs if result.comparison else None,
        failed=result.failures,
        trainings=round(summary.total_cost(run), 6),
        seconds=round(run.seconds, 3),
        status=status,
        report=None if report is None else str(report),
    )


def compared_means(run: Run, model_metrics: Mapping[str, float | None]) -> list[ComparedMeans]:
    """Return what the verdict on a run compares, as numbers; comparisons that were not made are left out.

    Args:
        run: The run.
        model_metrics: Metrics of the model that was trained at the end.
    """
    result, goal, rows = summary.RunResult(run), comparison_objective(run), []
    evaluator = Path(run.manifest.evaluator.rpartition(":")[2]).stem
    family = str(result.best.genome.get("family", evaluator)) if result.best else evaluator

    def compare(*values: Any) -> None:
        names = (name for name in ComparedMeans.__struct_fields__ if name != "family")
        rows.append(ComparedMeans(family=family, **dict(zip(names, values, strict=True))))

    best, default, final, baseline = result.fresh_best, result.fresh_default, result.comparison, result.baseline
    if best and default and final is not None and final.pairs and result.best.id == final.chosen:  # type: ignore[union-attr]
        means = best.mean, default.mean
        compare("best", "default", result.reported_metric, *means, final.gain, final.error, final.pairs, final.beats)
    if baseline is not None and baseline.best is not None and baseline.value is not None:
        means, seeds = (baseline.best, baseline.value), len(best.values) if best else 1
        compare("best", baseline.name, baseline.metric, *means, baseline.gain, baseline.error, seeds, baseline.beaten)
    value, other = model_metrics.get(goal.metric), run.baseline[1].metrics.get(goal.metric) if run.baseline else None
    if value is not None and other is not None:
        compare("model", run.baseline[0], goal.metric, value, other, goal.sign * (other - value), None, 1, None)  # type: ignore[index]
    return rows


def run_row(run: Run) -> ListedRun:
    """Return a run as one row of a list; its best value is that over fresh seeds where there are any."""
    result = summary.RunResult(run)
    best = result.best.outcome.metrics[result.metric] if result.best else None
    seeds = summary.seeds_text(result.best_seeds) if result.best else None
    if result.fresh_best is not None and result.fresh_best.values:
        test_metric = f", {result.reported_metric}" if result.on_test_set else ""
        best, seeds = result.fresh_best.mean, f"{len(result.fresh_best.values)} fresh seeds{test_metric}"
    beat = summary.present_beat(run)
    return fill(
        ListedRun,
        result,
        run.manifest,
        run=run.name,
        failed=result.failures,
        objective=result.metric,
        best=best,
        seeds=seeds,
        seconds=round(run.seconds, 3),
        ended=run.ended,
        state="ended" if run.ended is not None else "running" if beat is not None and beat.alive else "interrupted",
        note=read_note(run.folder),
    )


def run_details(
    run: Run, top: int, genomes: Sequence[Mapping[str, Any]] = (), conflicts: Sequence[tuple[str, str]] = ()
) -> RunDetails:
    """Return a run with its settings, its results and its best trials.

    Args:
        run: The saved run.
        top: Number of best trials.
        genomes: Genomes whose values are predicted.
        conflicts: Pairs of patches that do not go together, by name.
    """
    data = RunData(run)
    effects = gene_effects(data)
    return fill(
        RunDetails,
        run.manifest,
        run=run.name,
        settings=run.manifest.settings.to_json(),
        trainings=round(summary.total_cost(run), 6),
        ended=run.ended,
        seconds=run.seconds,
        results=len(run.outcomes),
        statuses=summary.status_counts(run),
        best=_ranked_trials(run, summary.best_trials(run, top)),
        front=[trial_summary(trial) for trial in summary.pareto_front(run)],
        best_so_far=best_so_far(run),
        importances={name: effect.share for name, effect in effects.items()},
        at_ends=_wider_ranges(run),
        widened=present_ranges(run),
        effects=effects,
        questions=list(open_questions(data)),
        waiting=len(waiting_files(run)),
        predictions=predict_genomes(run, genomes),
        patches=_patch_states(data, conflicts),
    )


def _patch_states(data: RunData, conflicts: Sequence[tuple[str, str]]) -> list[PatchState]:
    states, model = [], fit_patches(data.run, data.ranked_trials)
    gains, errors = (None, None) if model is None else (np.diag(matrix).tolist() for matrix in model.pair_gains())
    for index, patch in enumerate(data.run.patches):
        trials = [trial for trial in data.trials if trial.genome.get(patch.gene) is True]
        failed = [trial for trial in trials if not trial.ok]
        state = fill(
            PatchState,
            patch,
            trials=len(trials),
            failures=len(failed),
            error=failed[-1].outcome.error if failed else None,
            conflicts=sorted({name for pair in conflicts if patch.name in pair for name in pair} - {patch.name}),
            gain=None if gains is None else gains[index],
            gain_error=None if errors is None else errors[index],
        )
        states.append(state)
    return states


def _wider_ranges(run: Run) -> dict[str, str]:
    """Return a wider range for each gene whose best values are at an end of its range."""
    return {name: gene.wider for name, gene in genes_at_range_ends(RunData(run)).items()}
