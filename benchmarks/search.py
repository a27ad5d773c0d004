"""How many trainings a search needs: our strategies against others, on tables of networks that others trained.

Every method plays through ask and tell, and a look-up stands for the training. Ordered genes are ordered
for all (the index of a value, so that a grid in equal ratios is a log scale; a real number on its own
scale), categories are categories for all, and a cell that a table lacks is a failure for all. A table with
several seeds is searched and scored on their mean; in its noisy form it is searched on seed 0 and the cell
that looks best is scored on the mean. With --further a cell is trained with one seed after the other, each at
full cost, for every method, and what it recommends is scored on the mean of all. Mixed functions, whose optimum
lies elsewhere for each seed, say how much of this holds elsewhere; of the noisy one, too, what is recommended is
scored. Ours begin with the middle of every gene, as every run of `evo-tune` begins with the default; 'default first'
gives it to Optuna's TPE as well.

Normalised regret is (best found - the table's best) / (the table's median - its best): 0 is the best there
is, 1 the median. A figure is the mean over problems of the mean over seeds, with the standard error over
seeds. The median of evaluations to a regret of 5% is that of all runs; a run that never came there counts
as infinite. Rank is the mean over problems and over 20, 40 and 60 evaluations of a method's place by regret.
With several slots trainings pass in simulated time, which differ by 1:10, and regret is counted by results.
With two objectives (--fronts) regret is the share of the table's hypervolume that is not dominated.

    python benchmarks/search.py --tables ../shared/tables --seeds 20
    python benchmarks/search.py --tables ../shared/tables --seeds 20 --slots 1,2,4,8,32,96    several at a time
    python benchmarks/search.py --tables ../shared/tables --seeds 20 --fronts      two objectives
    python benchmarks/search.py --tables ../shared/tables --seeds 20 --further     further seeds of a genome
    python benchmarks/search.py --tables ../shared/tables --seeds 20 --ablation    the parts of saea instead
    python benchmarks/search.py --tables ../shared/tables --seeds 3 --quick        ours only, in a few minutes
    python benchmarks/search.py --problems conditions --seeds 10 --evaluations 50  constraints, failures, branches
    python benchmarks/search.py --problems noise --seeds 10 --evaluations 60       more functions with noise
    python benchmarks/search.py --cost                                             milliseconds of a proposal

The others run in an environment of their own, which the script makes in the user's cache, or at
--peers-env, the first time (about 1 GB). A run that is in the file of --csv already is not played again,
so a slow method may be run in pieces, by itself (--methods), with as few seeds as there is time for.

The tables are no part of this project; where they are absent, only the functions are played.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import heapq
import json
import os
import subprocess
import sys
import time
import venv
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from problems import CONDITIONS, FUNCTIONS, NOISY, Instance, Losses, Problem, Result, tables

from evo_tune import Choice, Float, Minimize
from evo_tune.genome.history import RunHistory
from evo_tune.genome.kernel import category_counts, encode_features
from evo_tune.genome.seeds import predict_losses
from evo_tune.genome.trial import DEFAULT, Candidate, Constraint, Outcome, Proposal
from evo_tune.genome.values import genome_key
from evo_tune.genome.view import trials_by_genome
from evo_tune.plugins.find import make_strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings

BUDGETS = (10, 20, 40, 50, 60, 100, 192, 384)
"""Numbers of evaluations after which the regret is told."""

RANKED = (20, 40, 60)
"""Those of them after which methods are ranked."""

NO_RULES = RunSettings()

CLOSE = 0.05
"""Regret that counts as found."""

PEERS = ("smac", "hyperopt", "nevergrad", "optuna", "cmaes", "torch", "setuptools<81")
"""What the environment of the others holds; torch is for Optuna's Gaussian process, setuptools for Hyperopt."""


class Player(Protocol):
    """A method, playing one run."""

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """Return a handle for `tell` and the genome to be trained."""

    def tell(self, handle: Any, losses: Losses | None) -> None:
        """Take a result; None is a failure."""

    def recommended(self) -> dict[str, Any] | None:
        """Return the best genome so far; None if there is none."""


Maker = Callable[..., Player]
"""Begins a run from an instance, a seed, the number of evaluations and the process of the peers (`Line`)."""


class Ours:
    """A strategy of evo-tune, driven as `Search` drives it, without a journal.

    Args:
        instance: What to play on.
        seed: Of the run.
        name: The strategy's.
        rules: Around it.
        options: The strategy's.
    """

    def __init__(self, instance: Instance, seed: int, name: str, rules: RunSettings = NO_RULES, **options: Any) -> None:
        constraints = [Constraint(f"limit{place}", 0.0, 1.0) for place in range(instance.constraints)]
        self.strategy = StrategyWithRules(inner=make_strategy(name, options), settings=rules, constraints=constraints)
        self.objectives = [Minimize(f"loss{place}") for place in range(instance.objectives)]
        self.metrics = [one.metric for one in (*self.objectives, *constraints)]
        self.history = RunHistory(instance.space, self.objectives, constraints)
        self.seed = seed

    def ask(self) -> tuple[Any, dict[str, Any]]:
        history, id = self.history, self.history.proposed_count
        rng = np.random.default_rng([self.seed, 0, id])
        proposal = self.strategy.propose(history, rng) if id else Proposal(history.space.default(), DEFAULT)
        if proposal is None:
            raise StopIteration("the strategy has no more to propose")
        generation = history.fresh_count // self.strategy.population
        history.add_candidate(Candidate(id, generation, 0, len(history.trials), **vars(proposal)))
        return id, proposal.genome

    def tell(self, handle: Any, losses: Losses | None) -> None:
        if losses is None:
            outcome = Outcome("failed", error="no such cell")
        else:
            outcome = Outcome("ok", dict(zip(self.metrics, losses, strict=True)))
        self.history.tell(handle, outcome)

    def recommended(self) -> dict[str, Any] | None:
        """Return what a run of evo-tune would: the best by the mean over seeds, or by expectation, as its rules are."""
        told = [one for one in trials_by_genome(self.history).values() if one.losses(1.0) is not None]
        if not told:
            return None
        if not self.strategy.settings.seeds_are_automatic:
            return min(told, key=lambda one: (one.losses(1.0), one.first_candidate.id)).first_candidate.genome
        sizes, units = category_counts(self.history.space), self.history.proposed_units
        known = [
            {
                one.candidate.extra_seed: one.losses[0]
                for one in (entry.trial_by_budget[1.0], *entry.extra_seed_trials)
                if one.losses
            }
            for entry in told
        ]
        order = predict_losses(
            known,
            lambda rows: encode_features(np.stack([units[told[row].first_candidate.id] for row in rows]), sizes),
            sizes > 0,
        )
        return told[next(iter(order))].first_candidate.genome


class Peer:
    """Another tool's optimiser, in the process that `line` talks to.

    Args:
        instance: What to play on.
        seed: Of the run.
        evaluations: Of the run, which some of the tools want to know.
        line: The process.
        method: Its name in `peers.py`.
        default: Begin with the default genome.
    """

    def __init__(
        self, instance: Instance, seed: int, evaluations: int, line: Line, method: str, default: bool = False
    ) -> None:
        self.line, self.space, self.asked = line, instance.space, 0
        self.best: tuple[float, dict[str, Any] | None] = (np.inf, None)
        self.out: dict[int, dict[str, Any]] = {}
        run = {"play": method, "seed": seed, "objectives": instance.objectives, "evaluations": evaluations}
        run["constraints"] = instance.constraints
        genes = [_kind(gene, self.space) for gene in self.space.genes.values()]
        first = [_number(gene, self.space.default()[name]) for name, gene in self.space.genes.items()]
        line.send(**run, genes=genes, first=first if default else None)

    def ask(self) -> tuple[Any, dict[str, Any]]:
        self.asked += 1
        point = self.line.send(ask=self.asked)
        genes, default = self.space.genes.items(), self.space.default()
        genome = {
            name: default[name] if number is None else _value(gene, number)
            for (name, gene), number in zip(genes, point, strict=True)
        }
        self.out[self.asked] = genome
        return self.asked, genome

    def tell(self, handle: Any, losses: Losses | None) -> None:
        self.line.send(tell=handle, losses=losses)
        if losses is not None and losses[0] < self.best[0]:
            self.best = losses[0], self.out[handle]

    def recommended(self) -> dict[str, Any] | None:
        """Return the genome that looked best in a training, as these tools do."""
        return self.best[1]


class InOptuna:
    """A sampler in a study of Optuna in this process, which begins with the default genome.

    Args:
        instance: What to play on.
        seed: Of the run.
        sampler: Makes the sampler from the seed and a function of constraints, if there are any.
    """

    def __init__(self, instance: Instance, seed: int, sampler: Callable[..., Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.space, self.objectives = instance.space, instance.objectives
        limits = {"constraints_func": lambda trial: trial.user_attrs.get("limits", [])} if instance.constraints else {}
        self.study = optuna.create_study(directions=["minimize"] * self.objectives, sampler=sampler(seed, **limits))
        default = {name: _number(gene, self.space.default()[name]) for name, gene in self.space.genes.items()}
        self.study.enqueue_trial(default)
        self.failed = optuna.trial.TrialState.FAIL

    def ask(self) -> tuple[Any, dict[str, Any]]:
        trial, genome = self.study.ask(), self.space.default()
        for name, gene in self.space.genes.items():
            if not all(genome[other] in values for other, values in gene.when or ()):
                continue
            kind, size, _ = _kind(gene, self.space)
            if kind == "real":
                number = trial.suggest_float(name, 0.0, 1.0)
            elif kind == "ordered":
                number = trial.suggest_int(name, 0, size - 1)
            else:
                number = trial.suggest_categorical(name, range(size))
            genome[name] = _value(gene, number)
        return trial, self.space.check(genome)

    def tell(self, handle: Any, losses: Losses | None) -> None:
        if losses is None:
            self.study.tell(handle, state=self.failed)
        else:
            handle.set_user_attr("limits", losses[self.objectives :])
            self.study.tell(handle, losses[: self.objectives])

    def recommended(self) -> dict[str, Any] | None:
        raise NotImplementedError("played with --further by other methods only")


def in_optuna(name: str, **options: Any) -> Maker:
    """Return the maker of a run with a sampler of Optuna, or with a strategy as one."""

    def sampler(seed: int, **limits: Any) -> Any:
        import optuna

        from evo_tune.integrations.optuna import StrategySampler

        if name.endswith("Sampler"):
            return getattr(optuna.samplers, name)(seed=seed, **limits)
        return StrategySampler(name, options=options, seed=seed, **limits)

    return lambda instance, seed, evaluations, line: InOptuna(instance, seed, sampler)


def _kind(gene: Any, space: Any) -> tuple[str, int, list[tuple[int, list[int]]]]:
    """Return a gene's kind, size and condition: indices of genes, each with the indices of its values."""
    names = list(space.genes)
    when = [
        (names.index(other), [int(_number(space.genes[other], value)) for value in values])
        for other, values in gene.when or ()
    ]
    if isinstance(gene, Float):
        return "real", 0, when
    return "unordered" if isinstance(gene, Choice) and not gene.ordered else "ordered", int(gene.size), when


def _value(gene: Any, number: float) -> Any:
    return gene.decode(number if isinstance(gene, Float) else (round(number) + 0.5) / gene.size)


def _number(gene: Any, value: Any) -> float:
    return gene.encode(value) if isinstance(gene, Float) else int(gene.encode(value) * gene.size)


class Line:
    """A process of `peers.py`, spoken to in lines of JSON; it starts with the first of them.

    Args:
        environment: Folder of its virtual environment, made if it is absent.
    """

    def __init__(self, environment: Path) -> None:
        self.environment = environment
        self.process: subprocess.Popen[str] | None = None

    def send(self, **message: Any) -> Any:
        """Return the answer to a message."""
        if self.process is None:
            command = [str(python_of(self.environment)), str(Path(__file__).with_name("peers.py"))]
            environ = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(message), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of the peers ended with {self.process.wait()} at {message}")
        return json.loads(answer)


def python_of(environment: Path) -> Path:
    """Return the Python of the environment of the peers, which is made and filled the first time."""
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (environment / "ready").is_file():
        print(f"installing {', '.join(PEERS)} in {environment}", file=sys.stderr)
        venv.create(environment, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True, stdout=sys.stderr)
        (environment / "ready").touch()
    return python


def ours(name: str, **options: Any) -> Maker:
    return lambda instance, seed, evaluations, line: Ours(instance, seed, name, **options)


def peer(method: str, default: bool = False) -> Maker:
    return lambda instance, seed, evaluations, line: Peer(instance, seed, evaluations, line, method, default)


WORTH = RunSettings(seeds_per_trial="auto", seeds="shared")

# `cma` is not among them: every table and function has a choice, which it refuses.
METHODS: dict[str, Maker] = {
    "saea": ours("saea"),
    "saea, --seeds-per-trial auto": ours("saea", rules=WORTH),
    "ga": ours("ga"),
    "random": ours("random"),
    "hill": ours("hill"),
    "staged": ours("staged"),
    "tpe": ours("tpe"),
    "hyperopt": ours("hyperopt"),
    "optuna tpe": peer("optuna tpe"),
    "optuna tpe, default first": peer("optuna tpe", default=True),
    "optuna tpe, constant liar": peer("optuna tpe, constant liar", default=True),
    "hyperopt tpe": peer("hyperopt tpe"),
    "nevergrad ngopt": peer("nevergrad ngopt"),
    "smac3": peer("smac3"),
    "optuna gp": peer("optuna gp"),
    "optuna gp, default first": peer("optuna gp", default=True),
    **{f"{name} in optuna": in_optuna(name) for name in ("saea", "ga", "TPESampler", "GPSampler")},
}

FRONTS: dict[str, Maker] = {
    "saea": ours("saea"),
    "nsga2": ours("nsga2"),
    "random": ours("random"),
    "optuna nsga2": peer("optuna nsga2"),
    "optuna default": peer("optuna default"),
    "optuna tpe": peer("optuna tpe"),
    "optuna gp": peer("optuna gp"),
}
"""Those that can do two objectives."""

SLOTS = ("saea", "ga", "random", "optuna tpe, constant liar")
"""Those that play with several slots, if no --methods are given; Optuna's TPE begins with the default, as ours do."""

ABLATION: dict[str, Maker] = {
    "saea": ours("saea"),
    "no rare values": ours("saea", rare_values=0.0),
    "no min distance": ours("saea", min_distance=0.0),
    "no gp_only": ours("saea", gp_only=0.0),
    "the process alone": ours("saea", gp_only=1.0),
}
"""The default, and `saea` with an option changed."""

FURTHER: dict[str, Maker] = {
    "saea": ours("saea"),
    "saea, --seeds-per-trial 2": ours("saea", rules=RunSettings(seeds_per_trial=2)),
    "saea, --seeds-per-trial auto": METHODS["saea, --seeds-per-trial auto"],
    "ga": ours("ga"),
    "ga, --seeds-per-trial auto": ours("ga", rules=WORTH),
    "random": ours("random"),
    "random, --seeds-per-trial auto": ours("random", rules=WORTH),
    "optuna tpe": peer("optuna tpe"),
    "optuna tpe, default first": peer("optuna tpe", default=True),
}
"""With and without further seeds of a genome, and those who know of no such thing."""

LOOKS = 5
"""Evaluations between two looks at what a method recommends."""

QUICK = ("saea", "ga", "random", "hill")


@dataclass(frozen=True)
class Played:
    """One run.

    Args:
        regrets: After each evaluation, shape (evaluations,).
        asking: Milliseconds per proposal.
        failed: Share of trainings that failed or broke a constraint.
    """

    regrets: np.ndarray
    asking: float
    failed: float = 0.0

    @property
    def needed(self) -> float:
        """Evaluations to a regret of at most CLOSE; infinite if it was not reached."""
        close = np.flatnonzero(self.regrets <= CLOSE)
        return float(close[0]) + 1 if len(close) else np.inf


SLOWEST = 10.0
"""How many times as long as the shortest training the longest one takes, in simulated time."""


def duration(genome: dict[str, Any]) -> float:
    """Return how long a genome trains in simulated time, 1 to SLOWEST: the same for every method."""
    luck = int.from_bytes(hashlib.sha256(genome_key(genome).encode()).digest()[:8], "big") / 2**64
    return 1.0 + (SLOWEST - 1.0) * luck


def play(maker: Maker, problem: Problem, seed: int, evaluations: int, slots: int, line: Line) -> Played:
    """Play one run with so many trainings at a time, each of its `duration`; a result is told when it is there.

    The regret after n evaluations is that of the first n that came back.
    """
    instance = problem.instance(seed)
    player = maker(instance, seed, evaluations, line)
    out: list[tuple[float, int, Any, Result]] = []
    results: list[Result] = []
    course: list[float] = []
    seconds = now = 0.0
    for number in range(evaluations):
        began = time.perf_counter()
        if len(out) == slots:
            now, _, handle, result = heapq.heappop(out)
            player.tell(handle, result[0])
            results.append(result)
            course.append(_looked_at(player, instance, course))
        try:
            handle, genome = player.ask()
        except StopIteration:  # a small space, all of it known
            break
        seconds += time.perf_counter() - began
        heapq.heappush(out, (now + duration(genome), number, handle, instance.evaluate(genome)))
    for _, _, handle, result in sorted(out, key=lambda row: row[:2]):
        results.append(result)
        if instance.regret:
            player.tell(handle, result[0])
            course.append(_looked_at(player, instance, course))
    results += [(None, None)] * (evaluations - len(results))
    if instance.regret:
        found = np.array(course + course[-1:] * (evaluations - len(course)))
    else:
        found = instance.regrets(results)
    failed = [told is None or any(value > 0.0 for value in told[instance.objectives :]) for told, _ in results]
    return Played(found, 1000 * seconds / evaluations, float(np.mean(failed)))


def _looked_at(player: Player, instance: Instance, course: list[float]) -> float:
    """Return the regret of what a method recommends after so many results, or as it last was: it is asked at times."""
    if not instance.regret or (len(course) + 1) % LOOKS:
        return course[-1] if course else np.inf
    genome = player.recommended()
    return np.inf if genome is None else instance.regret(genome)


class Record:
    """The runs played so far, by method, problem and seed, and the CSV file in which they stand, if any.

    Args:
        path: The file; a run is a row: method, problem, seed, milliseconds, share of failures, regrets.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.runs: dict[tuple[str, str, int], Played] = {}
        if path and path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                for method, problem, seed, asking, failed, *regrets in csv.reader(file):
                    if method != "method":
                        played = Played(np.array(regrets, dtype=float), float(asking), float(failed))
                        self.runs[method, problem, int(seed)] = played
        elif path:
            self._append(["method", "problem", "seed", "ms", "failed", *range(1, max(BUDGETS) + 1)])

    def add(self, method: str, problem: str, seed: int, played: Played) -> None:
        """Note a run, on disk as well."""
        self.runs[method, problem, seed] = played
        if self.path:
            regrets = [f"{regret:.6g}" for regret in played.regrets]
            self._append([method, problem, seed, f"{played.asking:.3f}", f"{played.failed:.3f}", *regrets])

    def _append(self, row: list[Any]) -> None:
        assert self.path is not None
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def of(self, method: str, problem: str, seeds: Iterable[int]) -> list[Played]:
        """Return the runs of one method on one problem."""
        return [self.runs[method, problem, seed] for seed in seeds if (method, problem, seed) in self.runs]


Runs = dict[str, list[Played]]
"""The runs of one method on each problem."""


def reached(played: Sequence[Played], budget: int) -> np.ndarray:
    """Return each run's regret after `budget`; one of nothing but failures is as good as the median."""
    regrets = np.array([run.regrets[budget - 1] for run in played])
    return np.where(np.isinf(regrets), 1.0, regrets)


def summary(runs: Runs, budget: int) -> str:
    """Return mean and standard error over seeds of the mean over problems, of the regret after `budget`, if known."""
    if any(len(run.regrets) < budget for played in runs.values() for run in played):
        return "-"
    all = [reached(played, budget) for played in runs.values()]
    error = np.sqrt(sum(regrets.var(ddof=1) / len(regrets) for regrets in all)) / len(all)
    return f"{np.mean([regrets.mean() for regrets in all]):.3f} ± {error:.3f}"


def ranks(results: dict[str, Runs], budgets: Iterable[int]) -> dict[str, float]:
    """Return each method's place by regret, 1 the best, as a mean over problems and budgets; ties share."""
    names = list(results)
    places = []
    for problem in next(iter(results.values())):
        for budget in budgets:
            means = np.array([reached(results[name][problem], budget).mean() for name in names])
            places.append([1 + (means < mean).sum() + ((means == mean).sum() - 1) / 2 for mean in means])
    return dict(zip(names, np.mean(places, axis=0), strict=True))


def conditions(results: dict[str, Runs], budget: int) -> None:
    """Print, for each problem, mean and standard error of the regret after `budget`, and the share of failures.

    The functions are smooth, so regrets span powers of ten, and no mean over problems is taken.
    """
    width = max(map(len, results))
    print(f"\nconditions: regret at {budget}, and the share of failed trainings")
    for problem in next(iter(results.values())):
        print(f"  {problem}")
        for name, runs in results.items():
            found = reached(runs[problem], budget)
            mean, error = found.mean(), found.std(ddof=1) / np.sqrt(len(found))
            failed = np.mean([run.failed for run in runs[problem]])
            print(
                f"    {name:{width}} {mean:10.2g} ± {error:8.2g}  median {np.median(found):8.2g}  failed {failed:5.1%}"
            )


def report(group: str, results: dict[str, Runs], budgets: Sequence[int]) -> None:
    """Print the means over the problems of a group, then the regrets of each problem."""
    width = max(map(len, results))
    columns = "".join(f"{f'regret at {budget}':>17}" for budget in budgets)
    print(f"\n{group}: {', '.join(next(iter(results.values())))}")
    print(f"{'method':{width}}{columns}{'rank':>7}{'median to 5%':>14}{'ms/proposal':>13}{'seeds':>7}")
    rank = ranks(results, [budget for budget in RANKED if budget in budgets])
    for name, runs in results.items():
        needed = np.median([run.needed for played in runs.values() for run in played])
        asking = np.mean([run.asking for played in runs.values() for run in played])
        cells = "".join(f"{summary(runs, budget):>17}" for budget in budgets)
        seeds = min(map(len, runs.values()))
        print(f"{name:{width}}{cells}{rank[name]:7.1f}{needed:14.1f}{asking:13.1f}{seeds:7d}")
    print("each at " + "/".join(map(str, RANKED)))
    for problem in next(iter(results.values())):
        print(f"  {problem}")
        for name, runs in results.items():
            cells = " ".join(f"{reached(runs[problem], b).mean():6.3f}" for b in RANKED if b in budgets)
            print(f"    {name:{width}} {cells}{np.median([run.needed for run in runs[problem]]):9.1f}")


def plot(path: Path, groups: dict[str, dict[str, Runs]]) -> None:
    """Draw the mean regret over evaluations, one panel a group."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(groups), figsize=(6 * len(groups), 5), squeeze=False)
    for panel, (group, results) in zip(panels[0], groups.items(), strict=True):
        for name, runs in results.items():
            longest = min(len(run.regrets) for played in runs.values() for run in played)
            means = [np.mean([reached(p, n).mean() for p in runs.values()]) for n in range(1, longest + 1)]
            panel.plot(range(1, longest + 1), means, label=name, linewidth=2.5 if name == "saea" else 1.0)
        panel.set(yscale="log", xlabel="evaluations", ylabel="mean normalised regret", title=group)
        panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


def cost() -> None:
    """Print the milliseconds of processor time of a proposal of saea in long runs, of one and of two objectives."""
    function = FUNCTIONS[0]
    print(f"{'ms of a processor a proposal':28}{'at 100':>8}{'at 1,000':>10}{'mean of 1,000':>15}")
    for objectives in (1, 2):
        one = function.instance(0)
        instance = Instance(one.space, one.evaluate, one.regrets, objectives)
        player, spent = Ours(instance, 0, "saea"), []
        for _ in range(1001):
            began = time.process_time()
            handle, genome = player.ask()
            spent.append(1000 * (time.process_time() - began))
            told, _ = one.evaluate(genome)
            player.tell(handle, told and (*told, float(one.space.encode(genome)[:4].sum()))[:objectives])
        means = np.mean(spent[90:110]), np.mean(spent[-20:]), np.mean(spent)
        print(f"saea, {objectives} objective{'s' * (objectives > 1):21}" + "{:8.1f}{:10.1f}{:15.1f}".format(*means))


def cache() -> Path:
    """Return the folder in the user's cache where the environment of the peers is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evo-tune" / "peers"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How many trainings a search needs, on tables of trained networks.")
    parser.add_argument("--tables", type=Path, default=Path("../shared/tables"), help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each method on each problem, 2 or more")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run (choose on other seeds)")
    parser.add_argument("--evaluations", type=int, default=100, help="trainings of a run, 20 or more")
    parser.add_argument("--slots", default="1", help="trainings at a time: a number, or several as 1,8,96")
    parser.add_argument("--ablation", action="store_true", help="the parts of saea instead of its opponents")
    parser.add_argument("--fronts", action="store_true", help="two objectives instead of one")
    parser.add_argument("--further", action="store_true", help="noisy tables, extra seeds of a genome at full cost")
    parser.add_argument("--quick", action="store_true", help="ours only, 40 evaluations")
    parser.add_argument("--cost", action="store_true", help="print what a proposal costs, and nothing else")
    parser.add_argument("--methods", help="only these, separated by semicolons")
    parser.add_argument("--problems", help="only these, or groups of them, separated by semicolons")
    parser.add_argument("--peers-env", type=Path, default=cache(), help="environment of the other tools")
    parser.add_argument("--csv", type=Path, help="append every run here, and play none that is here already")
    parser.add_argument("--plot", type=Path, help="draw the regrets over evaluations (needs the extra `plots`)")
    given = parser.parse_args()
    try:
        given.slots = [int(slots) for slots in given.slots.split(",")]
    except ValueError:
        parser.error(f"--slots {given.slots}: expected whole numbers, such as 1,8,96")
    if given.seeds < 2 or given.evaluations < 20 or min(given.slots) < 1:
        parser.error("expected --seeds of 2 or more, --evaluations of 20 or more and --slots of 1 or more")
    given.methods = given.methods.split(";") if given.methods else None
    given.problems = given.problems.split(";") if given.problems else None
    return given


def at_once(name: str, slots: int) -> str:
    """Return what a method is called that plays with so many slots."""
    return name if slots == 1 else f"{name}, {slots} slots"


def main() -> None:
    given = arguments()
    if given.cost:
        cost()
        return
    methods = ABLATION if given.ablation else FRONTS if given.fronts else FURTHER if given.further else METHODS
    if given.quick:
        given.evaluations, methods = 40, {name: methods[name] for name in QUICK if name in methods}
    wanted = given.methods or (SLOTS if given.slots != [1] and methods is METHODS else methods)
    methods = {name: maker for name, maker in methods.items() if name in wanted}
    found = tables(given.tables)
    problems = [*found, *FUNCTIONS, *NOISY, *CONDITIONS]
    if not found:
        print(f"nothing to measure in {given.tables}: it holds none of the tables; they are no part of this project")
    wanted_problems = given.problems or {problem.group for problem in problems} - {"conditions", "noise"}
    problems = [
        problem
        for problem in problems
        if (problem.group == "fronts") == given.fronts
        and (problem.group in ("seeds", "one seed")) == given.further
        and (problem.name in wanted_problems or problem.group in wanted_problems)
    ]
    if not methods or not problems:
        print("no method or no problem of these names")
        return
    record, line = Record(given.csv), Line(given.peers_env)
    rows = {at_once(name, slots): (maker, slots) for slots in given.slots for name, maker in methods.items()}
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    for seed in seeds:  # outermost: whenever it is stopped, all have had about as many seeds
        for problem in problems:
            for name, (maker, slots) in rows.items():
                if (name, problem.name, seed) not in record.runs:
                    print(f"\r{seed}: {name} on {problem.name}".ljust(60), end="", file=sys.stderr, flush=True)
                    played = play(maker, problem, seed, given.evaluations, slots, line)
                    record.add(name, problem.name, seed, played)
    print(file=sys.stderr)
    groups: dict[str, dict[str, Runs]] = {}
    for group in dict.fromkeys(problem.group for problem in problems):
        names = [problem.name for problem in problems if problem.group == group]
        groups[group] = {method: {name: record.of(method, name, seeds) for name in names} for method in rows}
        if group == "conditions":
            conditions(groups[group], min(50, given.evaluations) if given.evaluations < 200 else given.evaluations)
            continue
        report(group, groups[group], [budget for budget in BUDGETS if budget <= given.evaluations])
    for problem in problems:
        if problem.group == "noisy":
            print(f"{problem.name}: a search that saw every cell would end at {problem.instance(0).floor:.3f}")
    if given.plot:
        plot(given.plot, groups)


if __name__ == "__main__":
    main()
