"""Summary of a saved run: best trials, Pareto front, cost, failures, and whether more trials may improve it.

Pure functions of a run. They print nothing, load no evaluator and train nothing.
"""

import math
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.trial import Candidate, Proposal, Trial
from evo_tune.report import recommendation
from evo_tune.report.final_comparison import ComparisonState
from evo_tune.report.recommendation import AgainstBaseline, FreshValues
from evo_tune.settings import MIN_CURVES, SessionSettings
from evo_tune.store.heartbeat import Beat, last_beat
from evo_tune.store.run import Run, Widening
from evo_tune.store.run_folders import TRIALS, run_reference
from evo_tune.store.table import read_comparison
from evo_tune.text import escape_unprintable, one_line, show_decimals, show_error, show_seconds, show_value, with_plural

# Units of metrics that depend on the machine.
TIMES = ("s", "ms", "1/s", "tokens/s")

# Fewest fully trained genomes for importances.
MIN_TRIALS_FOR_IMPORTANCE = 20

# Least cost of a training, so that a run whose trainings all fail at once still reaches its budget.
MIN_COST = 0.01


class RunResult:
    """The result of a run, by its first objective.

    Args:
        run: The run. The result does not change while the run continues.
    """

    def __init__(self, run: Run) -> None:
        # Metric of the first objective, and metric over fresh seeds: on the test set if the evaluator has one.
        self.metric = run.objectives[0].metric
        self.reported_metric = recommendation.comparison_objective(run).metric
        # The recommended trial (see `recommendation.recommend_trial`); None without a successful full training.
        self.best = recommendation.recommend_trial(run)
        # The default genome's full trial; None if it has no value.
        self.default = next((trial for trial in run.ranked() if recommendation.is_default(trial, run)), None)
        # State of the final comparison; None before its first result.
        self.comparison, values = recommendation.comparison_result(run)
        # Values of best and default over the reporting seeds of the final comparison; None without them.
        rows = {row.id: row for row in values}
        self.fresh_best = rows.get(self.best.id) if self.best else None
        self.fresh_default = rows.get(self.default.id) if self.default else None
        # How the final comparison was made to fit into the hours, in words; '' if it is as asked for.
        self.reduced_comparison = _reduced_comparison(run)
        # Number of recorded results, of pruned trainings, and of results that are neither ok nor pruned.
        counts = status_counts(run)
        self.results = len(run.outcomes)
        self.pruned = counts.get("pruned", 0)
        self.failures = self.results - counts.get("ok", 0) - self.pruned
        # Number of ok results of partial trainings.
        ok_ids = [id for id, outcome in run.outcomes.items() if outcome.status == "ok"]
        self.partial = sum(run.candidates[id].budget < 1 for id in ok_ids)
        # Number of seeds of the values of best and default in the search.
        self.best_seeds, self.default_seeds = _seed_count(self.best, run), _seed_count(self.default, run)
        # Value of the best that is predicted for other seeds (see `recommendation`); None if unknown.
        loss = recommendation.loss_predictions(run, run.ranked()).get(self.best.id) if self.best else None
        self.predicted_value = None if loss is None else run.objectives[0].value(loss)
        # The evaluator's baseline beside the best; None if none was trained.
        self.baseline = recommendation.baseline_of(run, self.best, self.fresh_best)
        # Best and default, if they are known: name, trial, values over fresh seeds, seeds in the search.
        best = "best", self.best, self.fresh_best, self.best_seeds
        default = "default", self.default, self.fresh_default, self.default_seeds
        self.compared = [(name, trial, row, seeds) for name, trial, row, seeds in (best, default) if trial is not None]
        # Whether values over fresh seeds are on the test set.
        self.on_test_set = self.reported_metric != self.metric
        finished = self.comparison if self.comparison and self.comparison.over else ComparisonState()
        # By how much the best is better than the default; NaN if unknown. After the final comparison it is the gain of
        # the chosen finalist, over the reporting seeds on which both succeeded: negative if the default is recommended
        # for its better mean.
        self.gain = finished.gain
        if math.isnan(self.gain) and self.best and self.default and self.best.losses and self.default.losses:
            self.gain = self.default.losses[0] - self.best.losses[0]
        # Standard error of the gain, paired by seed; NaN without a final comparison. And whether the best beats the
        # default by the test in `final_comparison`; None if that was not tested.
        self.gain_error, self.beaten = finished.error, finished.beats


def _reduced_comparison(run: Run) -> str:
    """Return in words how a run's final comparison was made to fit into its hours; '' if it is as asked for."""
    plan, request = run.planned, recommendation.comparison_as_requested(run)
    if plan is None or (len(plan.finalists), plan.looks) == (len(request.finalists), request.look_seeds):
        return ""
    hours, seeds = f"{run.session.hours or 0.0:g} hours", plan.looks[-1] if plan.looks else 0
    if not plan.finalists:
        return f"no final comparison: 2 seeds of the best and of the default did not fit into {hours}"
    parts = []
    if len(plan.finalists) < len(request.finalists):
        parts.append(f"{len(plan.finalists)} of {len(request.finalists)} finalists")
    if seeds < request.look_seeds[-1]:
        parts.append(f"{seeds} of at most {request.look_seeds[-1]} seeds")
    return f"to fit into {hours}, the final comparison had {' and '.join(parts)}"


# Trials.


def _seed_count(ranked_trial: Trial | None, run: Run) -> int:
    """Return how many seeds a ranked trial's value in the search comes from; 0 without a trial."""
    return sum(trial.rankable and trial.key == ranked_trial.key for trial in run.trials()) if ranked_trial else 0


def seeds_text(count: int) -> str:
    """Return how many seeds a value comes from: 'one seed' or 'the mean of N seeds'."""
    return "one seed" if count < 2 else f"the mean of {count} seeds"


def best_trials(run: Run, most: int) -> list[Trial]:
    """Return the best trials of a run: the recommended one first, then by their values in the search."""
    best, ranked = recommendation.recommend_trial(run), run.ranked()
    return sorted(ranked, key=lambda trial: best is None or trial.id != best.id)[:most]  # stable


def pareto_front(run: Run) -> list[Trial]:
    """Return the Pareto front, best on the first objective first, with one trial for equal losses.

    All its trials meet the constraints. If no trial does, it is the trial that breaks them least.
    """
    ranked = run.ranked()
    if ranked and not ranked[0].feasible:
        return ranked[:1]
    front: dict[tuple[float, ...], Trial] = {}
    for trial in ranked:  # sorted by losses, so only earlier ones can dominate
        losses = trial.losses or ()
        is_dominated = any(all(x <= y for x, y in zip(better, losses, strict=True)) for better in front)
        if trial.feasible and not is_dominated:
            front[losses] = trial
    return list(front.values())


# Counts and costs.


def genome_count(run: Run) -> int:
    """Return the number of proposed genomes, which limits count."""
    return sum(candidate.fresh for candidate in run.candidates)


def trial_limit(run: Run, session: SessionSettings) -> int | None:
    """Return the number of trials at the limit of a session, as far as it is known; None without such a limit.

    Further trials of a genome count once they are proposed.
    """
    max_genomes = session.max_genomes(run.manifest.population)
    further_trials = sum(not candidate.fresh for candidate in list(run.candidates))
    return max(int(max_genomes) + further_trials, len(run.candidates)) if math.isfinite(max_genomes) else None


def results_in_words(run: Run) -> str:
    """Return in words how many trials have a result, of all trials that the limit allows."""
    results, total = len(run.outcomes), trial_limit(run, run.session)
    text = f"{results} of {total} trials have a result"
    if not total:
        text = f"{with_plural(results, 'trial')} {'has' if results == 1 else 'have'} a result"
    pending = len(run.candidates) - results
    return f"{text}, {pending} pending" if pending else text


def present_beat(run: Run) -> Beat | None:
    """Return the last heartbeat of a run that has not ended; None without one."""
    return None if run.ended is not None else last_beat(run.folder, run.outcomes)


def state_in_words(run: Run, beat: Beat | None) -> str:
    """Return whether a run is running, has ended or was killed; `beat` is its last sign of life, None without one."""
    if run.ended is not None:
        return f"ended: {run.ended}"
    resume = f"`evo-tune resume {run_reference(run.folder)}` continues it"
    if beat is None:
        return f"not running, although it has not ended; {resume}"
    last = f"last sign of life {show_seconds(beat.age)} ago on {beat.host}, process {beat.pid}"
    if beat.alive:
        return f"running ({last})"
    by_hand = "" if beat.slots or beat.host == platform.node() else ", or a program drives it and is busy"
    return f"killed, or its machine cannot be reached{by_hand} ({last}); if it was killed, {resume}"


def flag_to_continue(run: Run) -> str:
    """Return the flag that continues a run for three generations, but not for more trials than its limit was.

    It is of more trials if these were the limit, else of more generations.
    """
    population, trials = run.manifest.population, run.session.trials
    if trials is not None:  # a resumed run may have more than its last limit
        return f"--trials {max(trials, genome_count(run)) + min(trials, 3 * population)}"
    return f"--generations {max(2, math.ceil(genome_count(run) / population) + 3)}"


def resume_command(run: Run) -> str:
    """Return the command that continues a run, with the flag that raises its limit if it has reached one."""
    flag = "" if run.ended in (None, "interrupted", "closed") else f" {flag_to_continue(run)}"
    return f"evo-tune resume {run_reference(run.folder)}{flag}"


def total_cost(run: Run) -> float:
    """Return the cost of a run, in full trainings: the sum of `candidate_costs`."""
    return sum(candidate_costs(run).values())


def candidate_costs(run: Run) -> dict[int, float]:
    """Return the cost of each candidate, in full trainings.

    A promotion counts from the state that its rung kept, so a discarded decay counts as trained. A pruned or failed
    training counts up to the last point of its curve. Without a curve it counts its seconds at the median pace of the
    ok trainings, or in full while there are none. Each training counts at least `MIN_COST`. The journal alone decides.
    """
    recorded = [(id, run.outcomes[id]) for id in run.recorded]
    shares = {candidate.id: training_share(run, candidate) for candidate in run.candidates}
    paces = [outcome.seconds / shares[id] for id, outcome in recorded if outcome.status == "ok" and shares[id] > 0]
    full_seconds = median(paces) if paces else 0.0
    costs = dict(shares)
    for id, outcome in recorded:
        if outcome.status != "ok":
            cost = outcome.seconds / full_seconds if full_seconds > 0 else shares[id]
            if outcome.curve:
                cost = outcome.curve[-1][0] - run.candidates[id].budget + shares[id]
            costs[id] = min(max(cost, MIN_COST), shares[id])
    return costs


def pruning_savings(run: Run) -> float:
    """Return the cost that pruned trainings did not spend, in full trainings."""
    costs = candidate_costs(run)
    pruned = [run.candidates[id] for id, outcome in run.outcomes.items() if outcome.status == "pruned"]
    return sum(training_share(run, candidate) - costs[candidate.id] for candidate in pruned)


def pruning_line(run: Run) -> str:
    """Return when pruning began and what it saved, or what it waits for; '' without pruning."""
    if not run.manifest.settings.prune:
        return ""
    bounded = next((candidate for candidate in run.candidates if candidate.stop_if), None)
    reported = run.reported if bounded is None else run.reported[: run.reported_before_counts[bounded.id]]
    full = [id for id in reported if run.candidates[id].budget == 1 and run.outcomes[id].status == "ok"]
    if bounded is None:
        curves = sum(bool(run.outcomes[id].curve) for id in full)
        return f"pruning has not begun: it needs {MIN_CURVES} full trainings with a learning curve, and has {curves}"
    count, saved = status_counts(run).get("pruned", 0), pruning_savings(run)
    begin = f"pruning began with trial {bounded.id}, after {with_plural(len(full), 'full training')}"
    if not count:
        return f"{begin}; no training was pruned yet"
    share = saved / (saved + total_cost(run))
    return f"{begin}; {count} pruned, which saved {saved:.1f} full trainings ({share:.0%} of the cost without pruning)"


def training_share(run: Run, candidate: Candidate | Proposal) -> float:
    """Return the share of a full training that a candidate or a proposal adds to the one that it resumes."""
    if candidate.resumes is None:
        return candidate.budget
    budget, outcome = run.candidates[candidate.resumes].budget, run.outcomes.get(candidate.resumes)
    return candidate.budget - (budget if outcome is None else outcome.left_at(budget))


def caveats(run: Run) -> list[str]:
    """Return why a repeated run would differ; `verify` passes all the same."""
    reasons = []
    options, units = run.manifest.options, run.manifest.units
    if options.get("seconds") is not None and not options.get("cost"):
        reasons.append("its budget is in seconds")
    metrics = [objective.metric for objective in run.objectives]
    times = [metric for metric in metrics if metric == "seconds" or units.get(metric) in TIMES]
    if times:
        reasons.append(f"{', '.join(times)} depends on the machine")
    if any(outcome.status == "timeout" for outcome in run.outcomes.values()):
        reasons.append("a trial timed out")
    return reasons


def status_counts(run: Run) -> dict[str, int]:
    """Return the number of results by status, ok first, then the most frequent."""
    counts = Counter(outcome.status for outcome in run.outcomes.values())
    return dict(sorted(counts.items(), key=lambda item: (item[0] != "ok", -item[1], item[0])))


def failures_by_cause(run: Run) -> list[tuple[str, list[int]]]:
    """Return the failed trials by their cause: the first error with its status, and the ids; the most frequent first.

    Errors that differ only in numbers and quoted texts have the same cause.
    """
    groups: dict[str, list[int]] = {}
    for id, outcome in run.outcomes.items():
        if outcome.status not in ("ok", "pruned"):
            groups.setdefault(outcome.cause, []).append(id)
    named = [(f"{run.outcomes[ids[0]].status}: {run.outcomes[ids[0]].error}", ids) for ids in groups.values()]
    return sorted(named, key=lambda item: -len(item[1]))


# Most causes of failures that are printed, the most frequent first.
MOST_FAILURES = 5


# Factor by which the time of a trial must differ from the default's to be reported.
UNUSUAL_TIME = 2.0


def unusual_time_lines(run: Run) -> list[str]:
    """Return a line about the trials of a run with patches that took another time than the default genome."""
    default = run.sound_default and run.outcomes[0].seconds
    if not default or not run.patches:
        return []
    slow_or_fast = [
        f"trial {trial.id} {trial.outcome.seconds:.3g} s "
        f"({', '.join(dict(trial.candidate.code.patches)) or 'no patch'})"
        for trial in run.trials()
        if trial.ok and trial.candidate.whole and trial.candidate.code is not None
        if not 1 / UNUSUAL_TIME <= trial.outcome.seconds / default <= UNUSUAL_TIME
    ]
    if not slow_or_fast:
        return []
    shown = "; ".join(slow_or_fast[:3]) + ("; …" if len(slow_or_fast) > 3 else "")
    count = with_plural(len(slow_or_fast), "trial")
    return [f"{count} took more than twice or less than half the {default:.3g} s of the default: {shown}"]


def failure_lines(run: Run) -> list[str]:
    """Return a line for each cause of failed trials, with the log of the first if there is one."""
    lines = []
    for text, ids in failures_by_cause(run)[:MOST_FAILURES]:
        log = run.folder / TRIALS / f"{ids[0]:06d}" / "log.txt"
        place = f"; its output: {log}" if log.is_file() else ""
        trials = f"trial {ids[0]}{', …' if ids[1:] else ''}"
        lines.append(f"  {len(ids)} of {with_plural(len(run.outcomes), 'trial')} {text} ({trials}{place})")
    return lines


# Whether more trials are likely to improve the result.
#
# A model of the losses themselves. A search proposes genomes near its best ones, so its latest losses tell what its
# next ones will be. Above a threshold near the lowest of them they are taken to be exponential, as the excesses over a
# high threshold of most distributions nearly are (Pickands, Statistical inference using extreme order statistics,
# Annals of Statistics 3, 1975, with shape 0). The estimate for one training has the weight of two dozen trainings (the
# mean of a beta distribution); the trainings since the last improvement, which all failed to improve, correct it.
# These are pure functions of trials in the order in which their results were reported, so a run that stops by them
# stops there again in a replay. benchmarks/README.md says how often they are right.

# Fewest genomes with a loss for a prediction.
MIN_LOSSES_FOR_CHANCE = 16

# The model uses the latest half of the losses, and at least so many.
SHARE, WINDOW = 0.5, 16

# Share of these losses that makes the tail.
TAIL = 1 / 3

# Weight of the tail's estimate, in trainings.
BELIEF = 24

# Chance of an improvement below which a run that stops by itself ends.
DONE_CHANCE = 0.05

# Reason for which a run has ended whose strategy has proposed all that it can.
NOTHING_LEFT = "the strategy has nothing more to propose"

# Beginning of the reason for which a run that stops by itself has ended.
DONE_REASON = "no further improvement is likely: "


@dataclass(frozen=True)
class MoreTrials:
    """The expected benefit of more trainings.

    Args:
        chance: Probability that the next trainings improve the best loss by more than the noise.
        trainings: Number of these trainings.
        noise: Standard deviation of the loss of one genome between seeds. Unit: the metric's.
    """

    chance: float
    trainings: int
    noise: float


def seed_noise(trials: Sequence[Trial]) -> float:
    """Return the standard deviation of a genome's first loss between seeds, pooled over genomes.

    NaN if fewer than two extra seeds are known.

    Args:
        trials: Trials of any seeds, those of a final comparison included.
    """
    seeds: dict[str, list[float]] = {}
    for trial in trials:
        if trial.rankable and trial.losses is not None:
            seeds.setdefault(trial.key, []).append(trial.losses[0])
    groups = list(seeds.values())
    freedom = sum(len(losses) - 1 for losses in groups)
    # The variance of equal losses is a rounding error.
    squares = sum(float(np.var(losses)) * len(losses) for losses in groups if len(set(losses)) > 1)
    return math.sqrt(squares / freedom) if freedom > 1 else math.nan


def improvement_chance(losses: Sequence[float], noise: float, trainings: int) -> float:
    """Return the chance that the lowest of the next losses is below the lowest so far by more than the noise.

    Args:
        losses: Finite losses of the search's genomes, in the order of their results.
        noise: See `MoreTrials`.
        trainings: Number of next trainings.

    Returns:
        NaN for fewer than `MIN_LOSSES_FOR_CHANCE` losses.
    """
    if len(losses) < MIN_LOSSES_FOR_CHANCE:
        return math.nan
    latest = np.sort(np.array(losses[-max(WINDOW, math.ceil(SHARE * len(losses))) :]))
    count = max(4, math.ceil(TAIL * len(latest)))
    threshold = latest[count - 1]
    mean = float((threshold - latest[:count]).sum()) / (count - 1)
    beyond = threshold - (min(losses) - noise)
    if mean <= 0.0:
        return 0.0 if beyond > 0 else 1.0
    # The number of losses since the last one that was below all earlier ones by more than the noise
    lowest, without_improvement = math.inf, 0
    for loss in losses:
        improved = loss < lowest - noise
        lowest, without_improvement = (loss, 0) if improved else (lowest, without_improvement + 1)
    chance = count / (len(latest) + 1) * math.exp(-max(0.0, beyond) / mean)  # of one training
    chance *= BELIEF / (BELIEF + without_improvement)
    return 1.0 - (1.0 - min(1.0, chance)) ** trainings


def predict_more_trials(
    trials: Sequence[Trial], trainings: int, fresh_trials: Sequence[Trial] = ()
) -> MoreTrials | None:
    """Return the prospect of more trainings; None if too little is known, for example the noise between seeds.

    Args:
        trials: Completed trials in the order of their results.
        trainings: Number of next trainings.
        fresh_trials: Trainings of the final comparison, which add seeds of the same genomes.
    """
    noise = seed_noise([*trials, *fresh_trials])
    if math.isnan(noise):
        return None
    first_losses: dict[str, float] = {}
    for trial in trials:
        if trial.rankable and trial.feasible and trial.losses is not None:
            first_losses.setdefault(trial.key, trial.losses[0])
    chance = improvement_chance(list(first_losses.values()), noise, trainings)
    return None if math.isnan(chance) else MoreTrials(chance, trainings, noise)


def predict_next_generation(run: Run) -> MoreTrials | None:
    """Return the prospect of one more generation; seeds of the final comparison count for the noise."""
    if len(run.objectives) > 1:
        return None
    trials = [run.trial(id) for id in run.sequence()]
    return predict_more_trials(trials, run.manifest.population, read_comparison(run))


def describe_more_trials(prediction: MoreTrials) -> str:
    """Return the prospect as words without a full stop."""
    percent = 100 * prediction.chance
    chance = "less than 1%" if percent < 0.5 else "more than 99%" if percent > 99.5 else f"{percent:.0f}%"
    noise = f" by more than the noise between seeds ({prediction.noise:.3g})" if prediction.noise else ""
    return f"the next {prediction.trainings} trainings have a chance of {chance} to improve the best{noise}"


# The verdict as text

IGNORES_SEEDS = "the script ignores seeds, so one training of each was compared: the command has no {seed}"


def show_fresh_values(row: FreshValues | None) -> str:
    """Return values over fresh seeds as mean, standard error and number of seeds."""
    if row is None:
        return "-"
    if not row.values:
        return f"all {row.failures} failed"
    failed = f" ({row.failures} failed)" if row.failures else ""
    equal = ", all equal" if row.error == 0.0 else ""
    return f"{show_decimals(row.mean)}{show_error(row.error)} (n={len(row.values)}{equal}){failed}"


def verdict(result: RunResult) -> str:
    """Return in one line whether the best beats the default, and how the comparison was made to fit into the hours."""
    text = _compare_with_default(result)
    return f"{text}; {result.reduced_comparison}" if result.reduced_comparison else text


def _compare_with_default(result: RunResult) -> str:
    best, default, final = result.best, result.default, result.comparison
    if not result.results:
        return "no evaluation finished"
    if best is None and result.partial:
        return f"{result.partial} partial trainings gave a value, no full one has finished: `evo-tune resume` continues"
    if best is None:
        return "no trial has a value"
    if default is None:
        advice = "give another one in a new run, such as --gene 'NAME=LOW|HIGH @ DEFAULT'"
        return f"the default genome has no value, so the best cannot be compared with it: {advice}"
    if final is None:
        seeds = f"best: {seeds_text(result.best_seeds)}, default: {seeds_text(result.default_seeds)}"
        gain = f"difference: {show_decimals(result.gain)} ({seeds}): it may be luck"
        return "nothing beat the default genome" if best.id == default.id else gain
    if not final.over:
        return "the final comparison is not complete: `evo-tune resume` continues it; the best is that of the search"
    if final.chosen is None:
        return "every finalist failed on its fresh seeds: the best is that of the search"
    if not final.pairs:
        return f"on all {final.seeds} fresh seeds the best or the default failed: they cannot be compared"
    gain = show_decimals(abs(final.gain))
    error = show_error(final.error)
    if best.id == final.chosen:
        beats = f"the best {'beats' if final.beats else 'does not clearly beat'} the default"
        gain = show_decimals(final.gain)
        if math.isnan(final.error):
            return f"difference: {gain} on one fresh seed: {beats}"
        test_set = ", on the test set" if result.on_test_set else ""
        how = f"the same on each of {final.pairs} fresh seeds{test_set}, which says nothing about other data"
        if abs(final.gain) < 1000.0 * final.error:  # more is the rounding of trainings that hardly depend on seeds
            errors = f"{final.gain / final.error:.1f} standard errors"
            how = f"{errors}, paired over {final.pairs} fresh seeds{test_set}; t test at 5%"
        return f"difference: {gain}{error}: {beats} ({IGNORES_SEEDS if final.ignores_seeds else how})"
    if final.gain <= 0.0:
        test_set = " and the test set" if result.on_test_set else ""
        worse = f"{gain}{error} worse" if final.gain else "exactly as good"
        finalist = f"trial {final.chosen}, the finalist, is {worse}"
        if final.ignores_seeds:
            return f"nothing beat the default genome: {finalist} ({IGNORES_SEEDS})"
        return f"nothing beat the default genome: on fresh seeds{test_set} {finalist}"
    return f"trial {final.chosen}, the best finalist, failed on fresh seeds where the default did not: use the default"


def patch_verdicts(state: ComparisonState | None) -> list[str]:
    """Return a line for each patch of the best genome: its verdict, and its effect in the final comparison."""
    effects = () if state is None or not state.over else state.effects
    lines = []
    for effect in effects:
        gain = f"{show_decimals(effect.gain)}{show_error(effect.error)}"
        measured = f"gain {gain}, paired over {effect.pairs} fresh seeds" if effect.pairs else "it fails without it"
        lines.append(f"patch {effect.gene}: {effect.verdict} ({measured})")
    return lines


def baseline_verdict(baseline: AgainstBaseline) -> str:
    """Return in one line, without a full stop, whether the best beats the baseline."""
    name, value, best = baseline.name, baseline.value, baseline.best
    if value is None:
        return f"{name} has no value to compare with: {baseline.problem}"
    if best is None:
        return f"{name}: {baseline.metric} {show_decimals(value)}"
    values = f"{baseline.metric} {show_decimals(best)} against {show_decimals(value)}"
    if baseline.gain is None or baseline.error is None:
        better, luck = ("better", ": it may be luck") if (baseline.gain or 0.0) > 0.0 else ("not better", "")
        return f"the best trial is {better} than {name}: {values}, without an error over fresh seeds{luck}"
    gain = f"{show_decimals(baseline.gain)}{show_error(baseline.error)}"
    if baseline.beaten is None:
        return f"the best trial does not clearly beat {name}: {values}, a difference of {gain}"
    if baseline.beaten:
        return f"the best trial beats {name} by {gain}: {values}"
    return f"{name} beats the best trial by {gain.removeprefix('-')}: {values}; train longer, or with more data"


# Widened ranges as text


def show_range(gene: Gene) -> str:
    """Return the range of a gene: [0.0001, 0.03], or the values of a choice between bars."""
    if isinstance(gene, Choice):
        return "|".join(map(show_value, gene.values))
    return f"[{show_value(gene.decode(0.0))}, {show_value(gene.decode(1.0))}]"


def describe_widening(widening: Widening) -> str:
    """Return a widening in one line: the genes with their new ranges, and the reason."""
    changed = widening.changed.items()
    ranges = ", ".join(f"{escape_unprintable(name)} widened to {show_range(gene)}" for name, gene in changed)
    return f"{ranges}: {one_line(widening.reason) or 'as you asked on resume'}"


def present_ranges(run: Run) -> dict[str, str]:
    """Return the present range of each gene that was widened, by name."""
    changed = {name for widening in run.widened for name in widening.changed}
    return {name: show_range(gene) for name, gene in run.genes.items() if name in changed}


def range_lines(run: Run) -> Iterator[str]:
    """Yield a line with the present ranges of the genes that were widened, if there are any."""
    if run.widened:
        ranges = ", ".join(f"{escape_unprintable(name)} {text}" for name, text in present_ranges(run).items())
        yield f"widened ranges: {ranges}"
