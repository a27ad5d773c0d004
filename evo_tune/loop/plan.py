"""From a request to the manifest of a run: check what the user gave, choose budget and rungs, and write nothing.

`plan_run` is the one place. It binds the evaluator once. Where the budget of a training is a time, some steps of a few
genomes are timed in slots that are opened for the plan and closed again (`budget`). Every error comes before it costs
anything, and no file is left.
"""

import datetime
import functools
import math
import platform
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from msgspec import UNSET

from evo_tune.errors import EvoTuneError, OptionError, SpaceError, StoreError, UsageError
from evo_tune.forecast.clock import ESTIMATED_SECONDS, Clock
from evo_tune.forecast.timing import TIMING, Pace, genomes_to_time, pace_of
from evo_tune.genome.genes import Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Constraint, Objective
from evo_tune.genome.values import Genome, genome_key, space_error_prefix
from evo_tune.loop import budget
from evo_tune.loop.checks import check_ends, check_learning, check_metric, check_repair, check_rules, check_suited
from evo_tune.loop.code import hash_of
from evo_tune.loop.deadline import check_noise
from evo_tune.loop.genes import genes_with_defaults, limits_for
from evo_tune.loop.slots import plan_slots
from evo_tune.options.declare import AUTO
from evo_tune.options.target_size import parse_target_size
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import make_strategy
from evo_tune.plugins.patches import Patch
from evo_tune.plugins.patches.project import PatchedCode
from evo_tune.rules.fidelity import rungs_that_pay
from evo_tune.settings import DEFAULT_GENERATIONS, RunSettings, SessionSettings
from evo_tune.store.manifest import Manifest, PatchedProject, PatchRecord
from evo_tune.store.run import Run, copy_results
from evo_tune.store.run_folders import find_run
from evo_tune.text import is_encodable

# Packages whose versions change results.
RESULT_PACKAGES = ("evo-tune", "deap", "joblib", "numpy", "torch")

# Number of random genomes to time for the cost of a step, in addition to the default and the middle of the space.
RANDOM_GENOMES = 14


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's request for a new run, without its settings; see `Search` for the fields."""

    options: Mapping[str, Any] = field(default_factory=dict)
    strategy: str | None = None
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    population: int | None = None
    objectives: Sequence[str | Objective] | str | Objective = ()
    genes: Mapping[str, Gene | None] = field(default_factory=dict)
    subject_to: Iterable[str] = ()
    warm_start: Iterable[Mapping[str, Any]] = ()
    fill_defaults: bool = False
    learn_from: Iterable[str | Path] = ()
    code: PatchedCode | None = None


@dataclass(frozen=True)
class Draft:
    """A manifest with the objects that it describes.

    Args:
        requested: Evaluator with the user's options and the chosen budget; open options (`Options.settled`) are open.
        evaluator: Evaluator with its options, as they stay for the run.
        space: Search space of the run.
        manifest: Manifest with which the run would begin.
    """

    requested: BoundEvaluator
    evaluator: BoundEvaluator
    space: SearchSpace
    manifest: Manifest

    @property
    def default_seconds(self) -> float:
        """Seconds of a full training of the default genome, as the evaluator predicts them; 0 if it does not."""
        return Clock(space=lambda: self.space, estimate=self.evaluator.estimate).predict_seconds(self.space.default())


@dataclass(frozen=True, kw_only=True)
class RunPlan(Draft):
    """The plan of a run: its manifest and its slots.

    Args:
        requested: See `Draft`.
        evaluator: See `Draft`.
        space: See `Draft`.
        manifest: See `Draft`.
        slots: Number of slots.
        device: Device of its slots.
        pace: Times of its trainings; None if they were not timed.
        choices: What was chosen for the run, budget and rungs, in words, a line each.
        seconds: Duration of the planning.
    """

    slots: int
    device: str
    pace: Pace | None
    choices: tuple[str, ...] = ()
    seconds: float = 0.0


def plan_run(
    plugin: Evaluator,
    request: Request,
    settings: RunSettings,
    session: SessionSettings,
    store: Path,
    forecast: bool = False,
) -> RunPlan:
    """Plan a run. Nothing is written.

    Args:
        plugin: Evaluator of the run.
        request: The user's request.
        settings: Settings of the run.
        session: Settings of its first session.
        store: Folder of the saved runs.
        forecast: Whether to time steps even if the budget does not need it.

    Raises:
        UsageError: Something given is unknown, of the wrong type or out of range; or no step could be timed, but the
            budget needs it.
        KeyboardInterrupt: Ctrl-C came while steps were timed.
    """
    began = time.monotonic()
    evaluator = plugin.bind(request.options)
    cost_is_open = budget.needs_cost(evaluator)
    checked = _CheckedRequest(plugin, request, settings, session, store)
    # Elsewhere than on a GPU of this machine, deterministic algorithms cost nothing or cannot be timed: they stay.
    open_options = {"deterministic": AUTO} if evaluator.options.get("deterministic") == AUTO else {}
    device = plan_slots(session, settings.threads, evaluator.options).slots[0].inside
    if not device.startswith("cuda") or TIMING not in plugin.supports:
        open_options = {}
    if cost_is_open:
        draft, timings, pace, choices = _budget_in_time(checked, evaluator, began, open_options)
        slots, device = timings.slots, timings.device
    else:
        draft, choices = _draft(checked, evaluator, checked.settings), []
        rungs_are_open = settings.fidelity == AUTO and "budget" in plugin.supports and session.hours is not None
        if TIMING in plugin.supports and (forecast or rungs_are_open or open_options):
            genomes = genomes_to_time(draft.space) if forecast or rungs_are_open else [draft.space.default()]
            to_time = draft.evaluator.with_options(**open_options) if open_options else draft.evaluator
            timings = budget.time_steps(genomes, to_time, draft.manifest, session, True, _planning_end(session, began))
            slots, device, pace = timings.slots, timings.device, pace_of(timings.rows, timings.worker)
            if open_options:
                evaluator, choice = budget.settle_determinism(evaluator, timings)
                draft, choices = _draft(checked, evaluator, checked.settings), [choice]
        else:
            slot_plan = plan_slots(session, draft.manifest.threads, draft.manifest.options)
            slots, device, pace = len(slot_plan.slots), slot_plan.slots[0].name, None
    seconds = draft.default_seconds if pace is None else Clock(pace=pace).mean_seconds
    planning = time.monotonic() - began if pace is not None or cost_is_open else 0.0
    draft, choice = _choose_rungs(checked, draft, slots, seconds, planning)
    choices += [choice] if choice else []
    return RunPlan(**vars(draft), slots=slots, device=device, pace=pace, choices=tuple(choices), seconds=planning)


def _budget_in_time(
    checked: "_CheckedRequest", evaluator: BoundEvaluator, began: float, open_options: Mapping[str, Any]
) -> tuple[Draft, budget.StepTimings, Pace | None, list[str]]:
    """Measure the cost of a step, and choose the time of a training unless the user gave it.

    Args:
        checked: The user's request.
        evaluator: Evaluator with the user's options.
        began: Beginning of the planning, by `time.monotonic`.
        open_options: Options that the timings decide, `deterministic` or none, with their open values.

    Returns:
        The draft with the budget; without a measured cost, it has the evaluator's own budget. Then the last timings of
        steps, the times of its trainings (None if no step could be timed), and the choices in words: determinism if it
        was open, and the budget unless the user gave it.

    Raises:
        UsageError: No step could be timed, but the user gave a time.
    """
    session, given_seconds = checked.session, evaluator.options["seconds"]
    ends_at = _planning_end(session, began)
    # A time is no number of steps before the cost is known, so steps are timed with the evaluator's own budget.
    evaluator = evaluator.with_options(seconds=None)
    draft, pace, choices = _draft(checked, evaluator, checked.settings), None, []
    for is_first_round in (True, False):
        # The corners are left out: the slowest genome of a space may take more time than all others.
        genomes = genomes_to_time(draft.space, RANDOM_GENOMES, corners=False)
        to_time = draft.evaluator.with_options(**open_options) if open_options else draft.evaluator
        timings = budget.time_steps(genomes, to_time, draft.manifest, session, False, ends_at)
        is_settled, open_options = not open_options, {}
        if not is_settled:
            evaluator, choice = budget.settle_determinism(evaluator, timings)
            choices.append(choice)
            # Steps are faster without determinism: their cost is measured once more.
            is_settled = bool(evaluator.options["deterministic"])
        cost, timed_pace = budget.fit_cost(draft.evaluator, genomes, timings), pace_of(timings.rows, timings.worker, ())
        if cost is None or timed_pace is None:
            if is_first_round and given_seconds is not None and time.monotonic() < ends_at:
                raise UsageError(f"-o seconds={given_seconds:g}: no training step could be timed; give another budget")
            break  # in the second round, the cost of the first one stays
        evaluator = evaluator.with_options(cost=cost.text())
        if is_first_round:
            seconds = given_seconds
            if seconds is None:
                is_quick_search = not checked.request.options and not session.has_limits
                population = int(checked.strategy.to_json()["population"])
                trainings = DEFAULT_GENERATIONS * population if is_quick_search else None
                limits = (session, timings.slots, time.monotonic() - began, trainings)
                seconds, reason = budget.choose_seconds(draft.evaluator, draft.space.default(), cost, *limits)
                choices.append(f"budget: {seconds:g} s a training (-o seconds={seconds:g}), {reason}")
            evaluator = evaluator.with_options(seconds=seconds)
        timed_default, draft = draft.space.default(), _draft(checked, evaluator, checked.settings)
        seconds = draft.default_seconds
        estimates = map(draft.evaluator.estimate, draft.space.family_defaults())
        families = tuple(estimate[ESTIMATED_SECONDS] for estimate in estimates)
        pace = replace(timed_pace, seconds=(seconds,), judging=min(timed_pace.judging, seconds), families=families)
        if (draft.space.default() == timed_default and is_settled) or time.monotonic() >= ends_at:
            break
        # Else the budget has changed the size that suits it, and so the space: the cost is measured there once more.
    return draft, timings, pace, choices


def _planning_end(session: SessionSettings, began: float) -> float:
    """Return when the timing of steps ends, in seconds of `time.monotonic`; infinite without a limit in hours."""
    return math.inf if session.hours is None else began + budget.PLANNING_SHARE * session.hours * 3600.0


def _choose_rungs(
    checked: "_CheckedRequest", draft: Draft, slots: int, seconds: float, planning: float
) -> tuple[Draft, str]:
    """Return the draft with the rungs that pay, where the settings leave them open (`--fidelity auto`), and the choice.

    Rungs change options that follow from them, such as the schedule, so the draft is made again. They are chosen for
    one objective and without earlier runs only: for these they were shown to pay.

    Args:
        checked: The user's request.
        draft: Draft with full trainings.
        slots: Number of slots.
        seconds: Expected seconds of a full training; 0 if unknown.
        planning: Seconds of the hours that are already spent.
    """
    session, manifest = checked.session, draft.manifest
    if checked.settings.fidelity != AUTO or len(manifest.objectives) > 1 or manifest.learned:
        return draft, ""
    trainings = budget.affordable_trainings(slots, planning, session, seconds)
    rungs = rungs_that_pay(trainings, seconds)
    supported = "budget" in draft.evaluator.plugin.supports
    if rungs == "1" or not supported or session.max_genomes(manifest.population) <= trainings:
        return draft, ""
    try:
        with_rungs = _draft(checked, draft.requested, replace(checked.settings, fidelity=rungs))
    except EvoTuneError:  # an option or the strategy does not go with rungs
        return draft, ""
    limit = "" if session.hours is None else f" into {session.hours:g} hours"
    words = f"rungs {rungs.replace(',', ', ')}: {trainings:.0f} full trainings of {seconds:.3g} s fit{limit}"
    return with_rungs, words


class _CheckedRequest:
    """A request whose parts are checked, and which do not depend on budget and rungs.

    Args:
        plugin: Evaluator of the run.
        request: The user's request.
        settings: Settings of the run; the number of seeds is decided here.
        session: Settings of the first session.
        store: Folder of the saved runs.

    Attributes:
        objectives: Objectives of the run.
        strategy_name: Name or path of the strategy.
        strategy: The strategy.
        earlier_runs: Runs to learn from, read as plain data; no code that they name is executed.

    Raises:
        UsageError: A part is unknown, of the wrong type or out of range.
    """

    def __init__(
        self, plugin: Evaluator, request: Request, settings: RunSettings, session: SessionSettings, store: Path
    ) -> None:
        if settings.for_scale:
            parse_target_size(settings.for_scale)
        self.request, self.settings, self.session = request, settings, session
        self.objectives = _parse_objectives(request.objectives) or plugin.objectives
        if not self.objectives:
            raise OptionError(
                f"{plugin.name} names no objective: give --objective METRIC:min or METRIC:max, of a metric that it "
                "prints or returns (from Python: objectives=['METRIC:min'])"
            )
        metrics = {**plugin.metrics, **{own.metric: "" for own in plugin.objectives}, "seconds": "s"}
        for objective in self.objectives:
            check_metric(plugin, f"--objective {objective.describe()}", objective.metric, metrics, SpaceError)
        self.strategy_name = request.strategy or "saea"
        population = {} if request.population is None else {"population": request.population}
        self.strategy = make_strategy(self.strategy_name, {**request.strategy_options, **population})
        if settings.seeds_per_trial is None:
            can_repeat = plugin.seeded and len(self.objectives) == 1 and not self.strategy.own_trials
            # All trainings count towards limits in time, so extra seeds cost no extra time there.
            limited_by_time = session.hours is not None or session.budget is not None
            limited_by_time &= session.trials is None and session.generations is None
            self.settings = replace(settings, seeds_per_trial="auto" if can_repeat and limited_by_time else 1)
        check_noise(session, self.settings.most_seeds)
        self.earlier_runs = []
        for source in [request.learn_from] if isinstance(request.learn_from, str | Path) else request.learn_from:
            try:
                self.earlier_runs.append(Run.open(find_run(store, str(source))))
            except StoreError as error:
                raise UsageError(f"--learn-from {source}: expected the name or path of a run; {error}") from None


def _draft(checked: _CheckedRequest, evaluator: BoundEvaluator, settings: RunSettings) -> Draft:
    """Return the manifest for an evaluator's options, with what depends on them checked: space, rules, constraints.

    Args:
        checked: The user's request.
        evaluator: Evaluator with its options.
        settings: Settings of the run.

    Raises:
        UsageError: A gene, a constraint or a rule does not go with the evaluator.
    """
    request, objectives, strategy = checked.request, checked.objectives, checked.strategy
    plugin, threads = evaluator.plugin, plan_slots(checked.session, settings.threads, evaluator.options).threads
    requested, evaluator = evaluator, evaluator.for_run(len(settings.rungs) > 1)
    own_space = evaluator.space
    given_genes = genes_with_defaults(request.genes, own_space, evaluator.gene_options, evaluator.options)
    space = own_space.including(request.genes).with_genes(given_genes, optional={})
    check_repair(space)
    check_ends(evaluator, space, request.genes)
    estimates = evaluator.estimate(space.default())  # an error here would fail every trial
    check_suited(checked.strategy_name, strategy, space, objectives)
    check_learning(checked.strategy_name, strategy, space, objectives, checked.earlier_runs)
    constraints = _parse_constraints(plugin, objectives, estimates, request.subject_to)
    check_rules(plugin, checked.strategy_name, strategy, objectives, settings, constraints)
    manifest = Manifest(
        evaluator=plugin.reference,
        evaluator_hash=plugin.hash,
        fingerprint=evaluator.fingerprint(),
        options=evaluator.options,
        space=space.describe(),
        objectives=[objective.describe() for objective in objectives],
        subject_to=constraints,
        strategy=checked.strategy_name,
        strategy_options=strategy.to_json(),
        strategy_hash=hash_of(strategy),
        settings=replace(
            settings,
            seeds="own" if settings.own_seeds else "shared",
            fidelity="1" if settings.fidelity == AUTO else settings.fidelity,
        ),
        threads=threads,
        given_genes=sorted(given_genes),
        given_objectives=bool(_parse_objectives(request.objectives)),
        warm_start=_check_warm_start(space, request.warm_start, request.fill_defaults),
        learned=[copy_results(run, objectives[0]) for run in checked.earlier_runs],
        limits=limits_for(evaluator, space, strategy, objectives) if settings.widen else {},
        units=plugin.metrics,
        tests=plugin.tests,
        versions=versions_of((*RESULT_PACKAGES, *strategy.needs)),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        identity=uuid.uuid4().hex,
        patched=UNSET if request.code is None else _patched_project(request.code),
    )
    return Draft(requested, evaluator, space, manifest)


def _patched_project(code: PatchedCode) -> PatchedProject:
    records = [record_of(patch) for patch in code.patches.patches]
    return PatchedProject(project=code.project.hash, patches=records, allow=code.allow)


def record_of(patch: Patch) -> PatchRecord:
    """Return a patch as a run records it."""
    return PatchRecord(patch.name, patch.gene, patch.title, patch.hash, patch.requires, patch.excludes)


def _parse_objectives(objectives: Sequence[str | Objective] | str | Objective) -> tuple[Objective, ...]:
    """Return objectives from any accepted form; a single objective counts as a list of one."""
    if isinstance(objectives, str | Objective) or not isinstance(objectives, Iterable):
        objectives = (objectives,)
    parsed = []
    for item in objectives:
        objective = Objective.parse(item) if isinstance(item, str) else item
        valid = isinstance(objective, Objective) and isinstance(objective.metric, str)
        if not valid or not is_encodable(objective.metric):
            raise SpaceError(f"objective {item!r}: expected METRIC:min, METRIC:max, Minimize(…) or Maximize(…)")
        parsed.append(objective)
    return tuple(parsed)


def _parse_constraints(
    evaluator: Evaluator, objectives: Sequence[Objective], estimates: Mapping[str, float], texts: Iterable[str]
) -> list[str]:
    """Return constraints as they are written in the manifest.

    Raises:
        OptionError: A constraint cannot be parsed, or its metric is not returned by the evaluator or is of the test
            set.
    """
    metrics = {
        **evaluator.metrics,
        **estimates,
        **{objective.metric: "" for objective in (*objectives, *evaluator.objectives)},
    }
    constraints = [Constraint.parse(text) for text in ([texts] if isinstance(texts, str) else texts)]
    for constraint in constraints:
        check_metric(evaluator, f"--subject-to {constraint.describe()}", constraint.metric, metrics, OptionError)
    return [constraint.describe() for constraint in constraints]


def _check_warm_start(space: SearchSpace, genomes: Iterable[Mapping[str, Any]], fill_defaults: bool) -> list[Genome]:
    """Return the defaults of all families and the genomes, checked, without the default and without duplicates."""
    checked: dict[str, Genome] = {genome_key(genome): genome for genome in space.family_defaults()}
    if not isinstance(genomes, Iterable):
        raise SpaceError(f"warm_start {genomes!r}: expected a list of genomes")
    for number, genome in enumerate(genomes, 1):
        if not isinstance(genome, Mapping):
            raise SpaceError(f"--warm-start, genome {number}: {genome!r}: expected a dict of gene names to values")
        with space_error_prefix(f"--warm-start, genome {number}"):
            valid = space.check(genome, fill_defaults)
        checked[genome_key(valid)] = valid
    checked.pop(genome_key(space.default()), None)
    return list(checked.values())


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of Python and of each package, by name."""
    return {"python": platform.python_version(), **{package: _version(package) for package in packages}}


@functools.cache  # a loaded version cannot change, and reading it is slow
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "unknown"
