"""The data of a trial: a Candidate goes to a slot, an Outcome comes back, and both make a Trial.

All are immutable plain data. `vars` of one is the message to or from a worker, and the store defines their schema on
disk. This module knows nothing of strategies, stores, processes or torch.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np

from evo_tune.errors import OptionError, SpaceError
from evo_tune.genome.values import Genome, genome_key
from evo_tune.text import LONGEST_LINE, one_line

# Operator of the default genome, the first trial of a run.
DEFAULT = "default"

# Operator of a genome that the user gave, proposed right after the default.
WARM_START = "warm-start"

# Beginning of the operator of a genome that was submitted to a run in progress; its source follows.
SUBMITTED = "proposed by "

# Operator of a training run that continues to the next rung.
PROMOTION = "promotion"

# Operator of an extra seed of a genome.
EXTRA_SEED = "extra-seed"


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric.

    Args:
        metric: Name of the metric.
        bound: Largest or smallest allowed value.
        sign: 1 if the bound is the largest value, -1 if it is the smallest.
    """

    metric: str
    bound: float
    sign: float

    @staticmethod
    def parse(text: str) -> "Constraint":
        """Read METRIC<=NUMBER or METRIC>=NUMBER.

        Raises:
            OptionError: The text has another form.
        """
        match = re.fullmatch(r"\s*([^<>=]*[^<>=\s])\s*(<=|>=)\s*(\S+)\s*", text)
        try:
            bound = float(match[3]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or not math.isfinite(bound):
            raise OptionError(
                f"--subject-to {text!r}: expected METRIC<=NUMBER or METRIC>=NUMBER, such as 'params<=2e6'"
            )
        return Constraint(match[1], bound, 1.0 if match[2] == "<=" else -1.0)

    def describe(self) -> str:
        """Return METRIC<=NUMBER or METRIC>=NUMBER, which `parse` reads back."""
        bound = repr(self.bound).removesuffix(".0")
        return f"{self.metric}{'<=' if self.sign > 0 else '>='}{bound}"

    def excess(self, metrics: Mapping[str, float]) -> float:
        """Return the amount beyond the bound, negative within it; NaN for a metric that is missing."""
        return self.sign * (metrics.get(self.metric, math.nan) - self.bound)

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return the amount beyond the bound, in units of the bound; 0 if the constraint is met.

        It is infinite for a metric that is missing or NaN.
        """
        excess = self.excess(metrics)
        return math.inf if math.isnan(excess) else max(0.0, excess) / (abs(self.bound) or 1.0)


def violation(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> float:
    """Return the sum of the violations, 0 if all constraints are met.

    Each is in units of its own bound, so that they can be added (Deb, An efficient constraint handling method for
    genetic algorithms, Computer Methods in Applied Mechanics and Engineering 186, 2000).
    """
    return sum((constraint.violation(metrics) for constraint in constraints), 0.0)


Status: TypeAlias = Literal["ok", "failed", "diverged", "out_of_memory", "crashed", "timeout", "pruned"]
STATUSES: tuple[str, ...] = get_args(Status)

# Parts of an error that say nothing about its cause: genomes, quoted texts, numbers, the last line of a script.
VARYING = re.compile(r"; its last line: .*|\{[^{}]*\}|(?<!\w)(['\"`]).*?\1(?!\w)|[-+]?\d[\w.+-]*", re.DOTALL)

# Name of a value in curve points: 1 from the start of the final learning-rate decay on.
DECAYED = "decayed"


@dataclass(frozen=True)
class Objective:
    """A metric and its direction. Use `Minimize` or `Maximize`; no other code flips a sign."""

    metric: str
    sign: ClassVar[float] = 1.0

    def loss(self, metrics: Mapping[str, float]) -> float:
        """Return the metric as a number to minimize."""
        return self.sign * metrics[self.metric]

    def value(self, loss: float) -> float:
        """Return the metric's value for a loss."""
        return self.sign * loss

    @property
    def direction(self) -> str:
        """'min' or 'max', as the command line and the manifest write it."""
        return "min" if self.sign > 0 else "max"

    def describe(self) -> str:
        """Return METRIC:min or METRIC:max."""
        return f"{self.metric}:{self.direction}"

    @staticmethod
    def parse(text: str) -> "Objective":
        """Read METRIC:min or METRIC:max.

        Raises:
            SpaceError: The text has another form.
        """
        metric, _, direction = text.rpartition(":")
        if not metric or direction not in ("min", "max"):
            example = f", such as {text}:max if larger is better" if text.isidentifier() else ""
            raise SpaceError(f"objective {text!r} is not understood: expected METRIC:min or METRIC:max{example}")
        return Minimize(metric) if direction == "min" else Maximize(metric)


@dataclass(frozen=True)
class Minimize(Objective):
    """A metric that is better when it is smaller."""


@dataclass(frozen=True)
class Maximize(Objective):
    """A metric that is better when it is larger."""

    sign: ClassVar[float] = -1.0


@dataclass(frozen=True)
class Proposal:
    """A trial that a strategy proposes.

    Args:
        genome: A snapped genome (see `SearchSpace.snap`).
        operator: Origin of the genome, for display: 'default', 'warm-start', 'promotion', 'extra-seed', 'from
            scratch', 'proposed by person', or a name of the strategy's own ('crossover+mutation').
        parents: Ids of the trials that the genome was bred from.
        budget: Fraction of the full training, 0 < budget ≤ 1.
        resumes: Id of the trial whose checkpoint it continues; None for a training from the start.
        extra_seed: Number of the extra seed; 0: the first seed of the genome.
        stop_if: Bounds (fraction, metric, loss bound) beyond which it is pruned.
    """

    genome: Genome
    operator: str
    parents: tuple[int, ...] = ()
    budget: float = 1.0
    resumes: int | None = None
    extra_seed: int = 0
    stop_if: tuple[tuple[float, str, float], ...] = ()

    @property
    def fresh(self) -> bool:
        """See Candidate."""
        return self.resumes is None and self.extra_seed == 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(self.parents))


@dataclass(frozen=True)
class TrialCode:
    """The code of a trial in a run with patches.

    Args:
        project: SHA-256 of the listing of the project's files.
        patches: (name, SHA-256) of each patch that is on, in the order in which they are applied.
    """

    project: str
    patches: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A proposed trial as it is sent to a slot.

    Args:
        id: Position in the order of proposals, from 0.
        generation: Number of genomes proposed before it // population.
        seed: Seed of its training run (see `trial_seed`).
        reported_before: Number of results that had been reported when it was proposed.
        genome: See Proposal.
        operator: See Proposal.
        parents: See Proposal.
        budget: See Proposal.
        resumes: See Proposal.
        extra_seed: See Proposal.
        stop_if: See Proposal; fixed when it is proposed.
        test: Whether it may use the test set; only in the final comparison, so the journal does not record it.
        timing: Steps to time instead of a training run, only in a forecast; not in the journal. 0 trains as usual.
        baseline: Whether to train the evaluator's baseline instead of the genome; not in the journal.
        code: Project and patches in a run with patches, which follow from the genome; not in the journal.
    """

    id: int
    generation: int
    seed: int
    reported_before: int
    genome: Genome
    operator: str
    parents: tuple[int, ...] = ()
    budget: float = 1.0
    resumes: int | None = None
    extra_seed: int = 0
    stop_if: tuple[tuple[float, str, float], ...] = ()
    test: bool = False
    timing: int = 0
    baseline: bool = False
    code: TrialCode | None = None

    @property
    def fresh(self) -> bool:
        """Whether it counts for `--trials` and generations: only the first trial of a genome counts."""
        return self.resumes is None and self.extra_seed == 0

    @property
    def whole(self) -> bool:
        """Whether it is trained in full."""
        return self.budget == 1.0


def with_genes(candidate: Candidate, values: Genome) -> Candidate:
    """Return a candidate with values of genes that it lacks."""
    if values.keys() <= candidate.genome.keys():
        return candidate
    return replace(candidate, genome={**values, **candidate.genome})


@dataclass(frozen=True)
class Outcome:
    """The result of a candidate, as a slot returns it. A failure is a value here, never an exception.

    Args:
        status: 'ok', or why it has no value: 'failed', 'diverged', 'out_of_memory', 'crashed', 'timeout', 'pruned'.
        metrics: Metrics that the evaluator returned; empty unless ok.
        curve: Arguments of `context.report`: (fraction of the full training run, metrics including `DECAYED`).
        seconds: Wall time of the evaluation.
        device: Device of the evaluation ('cpu', 'cuda:0').
        error: Reason of a failure, one line; None if ok.
    """

    status: Status
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[float, dict[str, float]], ...] = ()
    seconds: float = 0.0
    device: str = ""
    error: str | None = None

    @property
    def cause(self) -> str:
        """Status and error, without quoted texts and numbers: these differ between trials that fail alike."""
        return f"{self.status}: {VARYING.sub('…', (self.error or '')[:LONGEST_LINE])}"

    def left_at(self, budget: float) -> float:
        """Return the share of the full training run where a promotion continues.

        A promotion discards the final decay, so this is the last point before it, or the budget without a decay.

        Args:
            budget: Budget of the candidate.
        """
        if budget == 1.0 or not self.curve or not self.curve[-1][1].get(DECAYED):
            return budget
        before = [fraction for fraction, point in self.curve if not point.get(DECAYED)]
        return min(budget, before[-1]) if before else budget


@dataclass(frozen=True)
class Trial:
    """A candidate and its outcome, as strategies see it.

    Args:
        candidate: Evaluated candidate.
        outcome: Outcome of the candidate.
        reported_order: Position in the order of reported results, from 0.
        losses: All objectives as numbers to minimize, all finite; None unless the status is ok.
        violation: Amount by which it breaks the constraints; 0 if it is feasible.
    """

    candidate: Candidate
    outcome: Outcome
    reported_order: int
    losses: tuple[float, ...] | None
    violation: float = 0.0

    @classmethod
    def of(
        cls,
        candidate: Candidate,
        outcome: Outcome,
        reported_order: int,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
    ) -> "Trial":
        """Return a trial, with losses computed from the objectives and the violation from the constraints.

        It has no losses if an objective is missing or not finite, even with status ok: comparisons with NaN would
        give wrong rankings.
        """
        if outcome.status == "ok" and all(objective.metric in outcome.metrics for objective in objectives):
            losses = tuple(objective.loss(outcome.metrics) for objective in objectives)
            if all(map(math.isfinite, losses)):
                return cls(candidate, outcome, reported_order, losses, violation(constraints, outcome.metrics))
        return cls(candidate, outcome, reported_order, None)

    @property
    def id(self) -> int:
        """The candidate's id."""
        return self.candidate.id

    @property
    def genome(self) -> Genome:
        """The candidate's genome."""
        return self.candidate.genome

    @cached_property
    def key(self) -> str:
        """Identity of its genome (see `genome_key`); cached, because a long run reads it often."""
        return genome_key(self.candidate.genome)

    @property
    def ok(self) -> bool:
        """Whether it has losses."""
        return self.losses is not None

    @property
    def feasible(self) -> bool:
        """Whether it has losses and meets the run's constraints."""
        return self.losses is not None and self.violation == 0.0

    @property
    def rankable(self) -> bool:
        """Whether it may be the best, an elite or in a front: it has losses and was trained in full."""
        return self.losses is not None and self.candidate.whole


def check_metrics(metrics: object, objectives: Sequence[Objective]) -> tuple[Status, dict[str, float], str | None]:
    """Check an evaluator's return value; return status, metrics and error.

    Args:
        metrics: Return value of the evaluator; valid if it is a dict of names to real numbers.
        objectives: Objectives whose metrics it must have.

    Returns:
        Status: ok, failed for an invalid return value, or diverged for an objective that is not finite. Metrics as
        plain floats under names writable as UTF-8, empty unless ok. Error in one line, None if ok.
    """
    if not isinstance(metrics, Mapping):
        kind = type(metrics).__name__
        return "failed", {}, one_line(f"evaluate returned a {kind}: expected a dict of metric names to numbers")
    plain: dict[str, float] = {}
    for key, value in metrics.items():
        name = str(key).encode("utf-8", "backslashreplace").decode()
        try:
            plain[name] = float(value)
        except Exception:  # __float__ of a user's class or a tensor may raise anything
            shown = one_line(repr(value), LONGEST_LINE // 2)
            return "failed", {}, one_line(f"evaluate returned {name}={shown}: expected a number")
    for objective in objectives:
        if objective.metric not in plain:
            returned = ", ".join(plain) or "nothing"
            return "failed", {}, one_line(f"evaluate returned no {objective.metric!r} (it returned {returned})")
        if not math.isfinite(plain[objective.metric]):
            return "diverged", {}, one_line(f"{objective.metric} is {plain[objective.metric]}")
    return "ok", plain, None


def trial_seed(run_seed: int, extra_seed: int, key: str | None = None) -> int:
    """Return the seed of a training run.

    Args:
        run_seed: Seed of the run.
        extra_seed: Number of the extra seed; 0: the first seed of the genome.
        key: Identity of the genome, if each genome has its own seeds; None: all genomes share the seeds.
    """
    key_words = [] if key is None else np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4").tolist()
    return int(np.random.SeedSequence([run_seed, 1, extra_seed, *key_words]).generate_state(1)[0])
