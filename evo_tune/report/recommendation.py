"""Which trial of a run to recommend: the ranking of its trials, and the result of its final comparison.

The best of many noisy results is partly luck. A run that weighs extra seeds against new genomes
(`RunSettings.seeds_are_automatic`) is therefore ranked by a model of all results (`genome.seeds`), which
predicts each genome's mean loss over other seeds. A run whose leader needs N seeds (`RunSettings.most_seeds`) ranks
the best genome that has all of them before those that look better after fewer, because a run that ends by the clock
has no time left to confirm them.

This module reads a run and writes nothing. `final_comparison` has the rules of the final comparison, and
`loop.comparison` runs its trainings.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from msgspec import Struct

from evo_tune.genome.kernel import category_counts, encode_features
from evo_tune.genome.seeds import is_fine, predict_losses
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.switches import SwitchModel, fit_switches
from evo_tune.genome.trial import Objective, Trial
from evo_tune.genome.values import Genome, genome_key, is_same
from evo_tune.report.final_comparison import ComparisonState, FinalComparison, FreshTraining, Purpose
from evo_tune.report.inference import ROUNDING, student_tail
from evo_tune.store.manifest import Manifest
from evo_tune.store.run import Run
from evo_tune.store.table import read_comparison

# Seed streams of the final comparison; trainings of the search use 1 (`genome.trial.trial_seed`), proposals 0.
STREAMS: Mapping[Purpose, int] = {"report": 2, "choose": 3}

# For each run with patches, its number of results and the id of its simplest trial.
SIMPLEST: WeakKeyDictionary[Run, tuple[int, int]] = WeakKeyDictionary()

# For each run, its number of results and the predicted losses that follow from them.
MEMO: WeakKeyDictionary[Run, tuple[int, dict[int, float]]] = WeakKeyDictionary()

# Fewest trainings with a value for a model of patches.
MIN_TRIALS = 10

# Number of standard deviations by which the simplest trial may be worse than the best (benchmarks/LOG.md,
# 2026-12-01: patches).
LEVEL_ERRORS = 2.0

# Ranking.


def rank_trials(run: Run) -> list[Trial]:
    """Return `Run.ranked`, with the best few reordered by what is known of other seeds."""
    ranked_trials, most_seeds = run.ranked(), run.manifest.settings.most_seeds
    if run.manifest.settings.seeds_are_automatic:
        order = {id: number for number, id in enumerate(loss_predictions(run, ranked_trials))}
        return sorted(ranked_trials, key=lambda trial: order.get(trial.id, len(order)))  # stable
    losses: dict[str, list[float | None]] = {}
    for trial in run.trials() if most_seeds > 1 else ():
        if trial.candidate.whole:
            losses.setdefault(trial.key, []).append(trial.losses[0] if trial.losses else None)
    # The best one that has all its seeds is first, unless no extra seed has changed a loss, or it breaks a constraint
    # by more.
    proven = next((trial for trial in ranked_trials if len(losses.get(trial.key, ())) >= most_seeds), None)
    seeds_matter = any(len(set(genome_losses)) > 1 for genome_losses in losses.values())
    if proven is None or not seeds_matter or proven.violation > ranked_trials[0].violation:
        return ranked_trials
    return [proven, *(trial for trial in ranked_trials if trial is not proven)]


def loss_predictions(run: Run, ranked_trials: Sequence[Trial]) -> dict[int, float]:
    """Return the losses that a model of all seeds predicts for the best few ranked trials, by id, the lowest first."""
    if not run.manifest.settings.seeds_are_automatic:
        return {}
    count, losses = MEMO.get(run, (-1, {}))
    if count == len(run.outcomes):
        return losses
    trials = [trial for trial in ranked_trials if trial.feasible]
    seeds: dict[str, dict[int, float]] = {}
    for trial in run.trials():
        if trial.rankable and trial.feasible and trial.losses is not None:
            seeds.setdefault(genome_key(trial.genome), {})[trial.candidate.extra_seed] = trial.losses[0]
    space = SearchSpace(None, None, **run.genes)
    sizes = category_counts(space)

    def features(indices: Sequence[int]) -> np.ndarray:
        return encode_features(np.stack([space.encode(trials[index].genome) for index in indices]), sizes)

    losses_by_seed = [seeds[genome_key(trial.genome)] for trial in trials]
    predictions = predict_losses(losses_by_seed, features, sizes > 0, shared=not run.manifest.settings.own_seeds)
    losses = {trials[index].id: loss for index, loss in predictions.items()}
    MEMO[run] = len(run.outcomes), losses
    return losses


def is_default(trial: Trial, run: Run) -> bool:
    """Return whether a trial has the default genome, which was proposed first."""
    default = run.candidates[0].genome
    return trial.genome == default and is_same(trial.genome, default)  # the quick test first


# The final comparison.


@dataclass(frozen=True)
class FreshValues:
    """Values of one genome over the reporting seeds of the final comparison, by the metric of `comparison_objective`.

    Args:
        id: Id of the genome's trial.
        values: One value for each successful seed.
        failures: Number of failed seeds.
        seeds: Seed of each value.
    """

    id: int
    values: tuple[float, ...]
    failures: int
    seeds: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN without any."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN for fewer than two seeds, 0 if they differ by rounding only."""
        if len(self.values) < 2:
            return math.nan
        error = float(np.std(self.values, ddof=1) / math.sqrt(len(self.values)))
        return error if error > ROUNDING * max(map(abs, self.values)) else 0.0


def fresh_seed(run_seed: int, number: int, purpose: Purpose = "report") -> int:
    """Return a seed that no trial of the run has used; it is the same for every genome, which pairs the results."""
    return int(np.random.SeedSequence([run_seed, STREAMS[purpose], number]).generate_state(1)[0])


def comparison_objective(run: Run) -> Objective:
    """Return the objective that the reporting seeds compare: the first, on the test set if the evaluator has one.

    Finalists are chosen by the objective itself, so the test set has no part in the search.
    """
    first = run.objectives[0]
    return type(first)(run.manifest.tests.get(first.metric, first.metric))


def current_comparison(run: Run) -> FinalComparison:
    """Return the final comparison of a run: the one that was planned to fit into its hours, else the one asked for."""
    plan = run.planned
    if plan is None:
        return comparison_as_requested(run)
    seeds = next((session.final_seeds for session in reversed(run.sessions) if session.final_seeds), 0)
    ranked_ids = {trial.id for trial in run.ranked()}  # a stranger's journal may name a genome by another trial
    finalists = tuple(id for id in plan.finalists if id in ranked_ids)
    default = plan.default if plan.default in ranked_ids else None
    patches = {id: patches_on(run, id) for id in finalists} if plan.patches is True else {}
    seeds = seeds if plan.looks else 0
    return FinalComparison(
        finalists, default, seeds, plan.looks, _is_fine_grained(run), patches, lacks_seed(run.manifest)
    )


def patches_on(run: Run, id: int) -> tuple[str, ...]:
    """Return the genes of the patches that are on in a trial, in the order in which they are applied."""
    return tuple(patch.gene for patch in run.patches if run.candidates[id].genome.get(patch.gene) is True)


def genome_without(run: Run, id: int, gene: str) -> Genome:
    """Return the genome of a trial without the patch of a gene, and without the patches that require it."""
    off = {patch.name for patch in run.patches if patch.gene == gene}
    for patch in run.patches:  # one requires only earlier ones
        off |= {patch.name} if off & {*patch.requires} else set()
    space = SearchSpace(None, None, **run.genes)
    values: Genome = {patch.gene: False for patch in run.patches if patch.name in off}
    return space.snap(space.encode({**run.candidates[id].genome, **values}))


def fit_patches(run: Run, trials: Sequence[Trial]) -> SwitchModel | None:
    """Return the model of what a run's patches gain; None in a run without patches, or with too few results.

    Args:
        run: The run.
        trials: Its full trainings with a loss.
    """
    if not run.patches or len(trials) < MIN_TRIALS:
        return None
    losses = np.array([trial.losses[0] for trial in trials if trial.losses])
    genomes, genes = [trial.genome for trial in trials], [patch.gene for patch in run.patches]
    return fit_switches(SearchSpace(None, None, **run.genes), genes, genomes, losses)


def _simplest_trial(run: Run, ranked_trials: Sequence[Trial]) -> Trial:
    """Return the trial with the fewest patches among those that may be the best; the first without a model of them.

    Like the one-standard-error rule (Breiman et al. 1984): the predicted loss is at most `LEVEL_ERRORS` standard
    deviations above that of the best.
    """
    count, id = SIMPLEST.get(run, (-1, -1))
    if count == len(run.outcomes):
        return next(trial for trial in ranked_trials if trial.id == id)
    trials = [trial for trial in ranked_trials if trial.feasible == ranked_trials[0].feasible]
    model = fit_patches(run, trials)
    simplest = trials[0] if model is None else simplest_of(model, trials)
    SIMPLEST[run] = len(run.outcomes), simplest.id
    return simplest


def simplest_of(model: SwitchModel, trials: Sequence[Trial]) -> Trial:
    """Return the trial with the fewest patches among those that may be the best by a model that was fitted to them."""
    losses = model.mean(model.features)
    best = int(losses.argmin())
    errors = np.sqrt(model.variance(model.features - model.features[best]))
    level = [place for place in range(len(trials)) if losses[place] - losses[best] <= LEVEL_ERRORS * errors[place]]
    on = [sum(trial.genome[name] is True for name in model.switches) for trial in trials]
    return trials[min(level, key=lambda place: (on[place], losses[place]))]


def comparison_as_requested(run: Run) -> FinalComparison:
    """Return the final comparison that the last session with one asked for, however long it takes.

    With several objectives the only finalist is the best on the first one, because the result is the Pareto front. In a
    run with patches the simplest of those that may be the best is a finalist beside the best.
    """
    wanting = [session for session in run.sessions if session.final_seeds]
    seeds, best = (wanting[-1].final_seeds, wanting[-1].finalists) if wanting else (0, 1)
    trials = rank_trials(run)
    default = next((trial.id for trial in trials if is_default(trial, run)), None)
    first = trials[: best if len(run.objectives) == 1 else 1]
    if run.patches and len(run.objectives) == 1:
        others = [trial for trial in trials if trial.id != default]
        simplest = [_simplest_trial(run, others)] if others else []  # the model may be wrong: fresh seeds decide
        first = [*simplest, *(trial for trial in others if trial not in simplest)][: max(2, best)]
    leaders = [trial.id for trial in first if trial.feasible == trials[0].feasible]
    finalists = tuple(id for id in leaders if id != default)
    patches = {id: on for id in finalists if (on := patches_on(run, id))}
    return FinalComparison(finalists, default, seeds, (), _is_fine_grained(run), patches, lacks_seed(run.manifest))


def lacks_seed(manifest: Manifest) -> bool:
    """Return whether a run has a command, and neither it nor its template has the placeholder of the seed."""
    texts = (manifest.evaluator, *map(str, manifest.options.values()))
    return manifest.evaluator.startswith("command:") and not any(re.search(r"\{\s*seed\b", text) for text in texts)


def _is_fine_grained(run: Run) -> bool:
    """Return whether equal losses of two seeds are no chance, judged by the trials of the search.

    Of a metric on the test set the search knows nothing.
    """
    losses = [trial.losses[0] for trial in run.trials() if trial.rankable and trial.losses]
    return comparison_objective(run) == run.objectives[0] and is_fine(losses)


def comparison_results(run: Run, comparison: FinalComparison) -> dict[FreshTraining, float | None]:
    """Return the losses of the final comparison's trainings so far; None for a failure."""
    finished = {(trial.key, trial.candidate.seed): trial for trial in read_comparison(run)}
    losses: dict[FreshTraining, float | None] = {}
    if not finished:
        return losses
    ids = (*comparison.finalists, *(() if comparison.default is None else (comparison.default,)))
    # Identity of each genome, and of it without each of its patches.
    keys = {(id, ""): genome_key(run.candidates[id].genome) for id in ids}
    for id in ids:
        keys |= {(id, gene): genome_key(genome_without(run, id, gene)) for gene in comparison.patches.get(id, ())}
    for purpose, most in comparison.max_seeds.items():
        objective = run.objectives[0] if purpose == "choose" else comparison_objective(run)
        for number in range(1, most + 1):
            seed = fresh_seed(run.manifest.settings.seed, number, purpose)
            for (id, gene), key in keys.items():
                trial = finished.get((key, seed)) if purpose == "report" or not gene else None
                if trial is not None:
                    has_value = trial.losses and objective.metric in trial.outcome.metrics
                    loss = objective.loss(trial.outcome.metrics) if has_value else math.nan
                    losses[FreshTraining(id, purpose, number, gene)] = loss if math.isfinite(loss) else None
    return losses


class ComparisonResult(NamedTuple):
    """The final comparison of a run so far.

    Args:
        state: Its state; None before its first result.
        values: Values of the default and of the chosen finalist; empty until the comparison is complete.
    """

    state: ComparisonState | None = None
    values: tuple[FreshValues, ...] = ()


def comparison_result(run: Run) -> ComparisonResult:
    """Return the final comparison so far."""
    if not read_comparison(run):  # a running search asks for this often
        return ComparisonResult()
    comparison = current_comparison(run)
    results = comparison_results(run, comparison)
    if not results:
        return ComparisonResult()
    state, value, values = comparison.state(results), comparison_objective(run).value, []
    seed = run.manifest.settings.seed
    for id in (comparison.default, state.chosen) if state.over and state.chosen is not None else ():
        if id is not None:
            losses = {number: results[FreshTraining(id, "report", number)] for number in range(1, state.seeds + 1)}
            good = {fresh_seed(seed, number): value(loss) for number, loss in losses.items() if loss is not None}
            values.append(FreshValues(id, tuple(good.values()), len(losses) - len(good), tuple(good)))
    return ComparisonResult(state, tuple(values))


def fresh_values(run: Run) -> tuple[FreshValues, ...]:
    """Return the values of the default and of the chosen finalist; empty until the final comparison is complete."""
    return comparison_result(run).values


def recommend_trial(run: Run) -> Trial | None:
    """Return the trial to recommend: the finalist that the final comparison chose, else the best of the search.

    The default genome is recommended instead if it was as good on the reporting seeds: fewer failures, or the same
    number and a mean that is no worse.
    """
    state, values = comparison_result(run) if len(run.objectives) == 1 else ComparisonResult()
    if state is None or not values:
        return next(iter(rank_trials(run)), None) if run.manifest.settings.most_seeds > 1 else run.leader
    trials = run.ranked()
    chosen = next(trial for trial in trials if trial.id == state.chosen)
    default = next((trial for trial in trials if is_default(trial, run)), None)
    failures = {row.id: row.failures for row in values}
    if default is None or default.id not in failures or default.violation > chosen.violation:
        return chosen
    more_failures = failures[chosen.id] - failures[default.id]
    return default if more_failures > 0 or (more_failures == 0 and state.gain <= 0) else chosen


# The baseline

# Highest probability of a difference this large, on either side, if best and baseline are equally good.
LEVEL = 0.05


class AgainstBaseline(Struct, frozen=True, forbid_unknown_fields=True):
    """The evaluator's baseline, a method that is trained once on the same data, beside the best trial.

    Args:
        name: Name of the method.
        metric: Metric of the comparison: `reported` with a final comparison, else `metric`.
        value: Value of the method; null if it has none.
        best: Value of the best trial, over fresh seeds if there are any; null without a best trial.
        gain: By how much the best is better. Unit: the metric's.
        error: Standard error of `best` over fresh seeds. Unit: the metric's.
        beaten: Whether the best beats the baseline by a t test over seeds; null if the difference is not clear.
        problem: Why the method has no value; '' if it has one.
    """

    name: str
    metric: str
    value: float | None = None
    best: float | None = None
    gain: float | None = None
    error: float | None = None
    beaten: bool | None = None
    problem: str = ""


def baseline_of(run: Run, best: Trial | None, fresh_values: FreshValues | None) -> AgainstBaseline | None:
    """Return the baseline of a run; None if none was trained.

    Args:
        run: The run.
        best: The recommended trial.
        fresh_values: Its values over fresh seeds.
    """
    if run.baseline is None:
        return None
    (name, outcome), goal, seeds = run.baseline, run.objectives[0], len(fresh_values.values) if fresh_values else 0
    metric = comparison_objective(run).metric if seeds else goal.metric
    value = outcome.metrics.get(metric, math.nan)
    if outcome.status != "ok" or not math.isfinite(value):
        problem = f"it has no {metric}" if outcome.status == "ok" else outcome.error or outcome.status
        return AgainstBaseline(name, metric, problem=problem)
    if best is None:
        return AgainstBaseline(name, metric, value)
    if fresh_values is None or seeds < 2:
        best_value = fresh_values.mean if fresh_values and seeds else best.outcome.metrics[metric]
        return AgainstBaseline(name, metric, value, best_value, goal.sign * (value - best_value))
    gain, error = goal.sign * (value - fresh_values.mean), fresh_values.error
    is_clear = gain != 0.0 and (error == 0.0 or student_tail(abs(gain) / error, seeds - 1) <= LEVEL)
    return AgainstBaseline(name, metric, value, fresh_values.mean, gain, error, beaten=gain > 0.0 if is_clear else None)
