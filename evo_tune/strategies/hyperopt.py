"""The tree-structured Parzen estimator through Hyperopt.

Each proposal replays the history into new Hyperopt trials and seeds Hyperopt from its generator, so nothing is kept
between two proposals.

Source: Bergstra, Yamins & Cox, Making a science of model search (ICML 2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.history import History
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.genome.values import Genome, Value
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies._proposals import fresh

if TYPE_CHECKING:
    from hyperopt import Trials

ATTEMPTS = 4
"""Suggestions tried before a random genome is taken; each costs as much as the first."""


@dataclass(frozen=True)
class Hyperopt(Strategy):
    """Tree-structured Parzen estimator through Hyperopt, for one objective.

    Hyperopt ranks failed and pending trials behind all others. Partial trainings are left out, because their losses
    are on another scale.
    """

    first: int = option(20, bounds="[1, inf)", help="Random trials before the model is used.")

    needs: ClassVar[Mapping[str, str]] = {"hyperopt": "evo-tune[hyperopt]"}

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        return fresh(history, rng, self._suggest(history, rng))

    def _suggest(self, history: History, rng: np.random.Generator) -> Iterator[Proposal]:
        from hyperopt import Domain, tpe

        genes = {name: gene for name, gene in history.space.genes.items() if gene.size > 1}
        if not genes:  # Hyperopt has no parameter of one value
            return
        domain = Domain(lambda point: 0.0, {name: _prior(name, gene) for name, gene in genes.items()})
        trials = _trials(history, genes)
        for _ in range(ATTEMPTS):
            seed = int(rng.integers(2**31))
            with np.errstate(all="ignore"):  # a range of 1e300 overflows in it
                found = tpe.suggest(
                    [history.proposed_count], domain, trials, seed, n_startup_jobs=self.first, verbose=False
                )
            point = found[0]["misc"]["vals"]
            genome = {name: _value(gene, point[name][0]) for name, gene in genes.items()}
            yield Proposal(history.space.check(genome, fill_defaults=True), "tpe")


def _prior(name: str, gene: Gene) -> Any:
    """Return a gene as a Hyperopt parameter; its logarithmic priors take logarithms as bounds."""
    from hyperopt import hp

    if isinstance(gene, Float):
        if gene.log:
            return hp.loguniform(name, math.log(gene.low), math.log(gene.high))
        return hp.uniform(name, gene.low, gene.high)
    if isinstance(gene, Int):
        if gene.log:
            return hp.qloguniform(name, math.log(gene.low - 0.5), math.log(gene.high + 0.5), 1)
        return hp.uniformint(name, 0, gene.size - 1)  # steps, so that each is as likely as the others
    assert isinstance(gene, Choice)
    return hp.uniformint(name, 0, gene.size - 1) if gene.ordered else hp.choice(name, list(range(gene.size)))


def _value(gene: Gene, point: float) -> Value:
    if isinstance(gene, Choice):
        return gene.values[int(point)]
    if isinstance(gene, Int):
        whole = int(point) if gene.log else gene.low + gene.step * int(point)
        return min(max(whole, gene.low), gene.high)
    assert isinstance(gene, Float)
    return gene.check(min(max(float(point), gene.low), gene.high))  # exp(log(low)) may be just below low


def _point(gene: Gene, value: Value) -> float:
    if isinstance(gene, Choice):
        return int(gene.encode(value) * gene.size)
    if isinstance(gene, Int) and not gene.log:
        return (int(value) - gene.low) // gene.step
    return float(value)


def _trials(history: History, genes: Mapping[str, Gene]) -> Trials:
    from hyperopt import Trials

    docs = {trial.id: (trial.genome, _result(trial.losses)) for trial in history.trials if _counts(trial)}
    docs.update({one.id: (one.genome, {"status": "new"}) for one in history.pending})
    trials = Trials()
    trials.insert_trial_docs([_doc(id, *docs[id], genes) for id in sorted(docs)])
    trials.refresh()
    return trials


def _counts(trial: Trial) -> bool:
    return trial.rankable or not trial.ok


def _result(losses: tuple[float, ...] | None) -> dict[str, Any]:
    return {"status": "fail"} if losses is None else {"status": "ok", "loss": losses[0]}


def _doc(id: int, genome: Genome, result: dict[str, Any], genes: Mapping[str, Gene]) -> dict[str, Any]:
    """Return a trial as a Hyperopt document, with one value of each parameter."""
    from hyperopt.base import JOB_STATE_DONE, JOB_STATE_RUNNING

    misc = {
        "tid": id,
        "cmd": None,
        "idxs": {name: [id] for name in genes},
        "vals": {name: [_point(gene, genome[name])] for name, gene in genes.items()},
    }
    state = JOB_STATE_RUNNING if result["status"] == "new" else JOB_STATE_DONE
    unused = dict.fromkeys(("spec", "owner", "book_time", "refresh_time", "exp_key"))
    return {"tid": id, "state": state, "result": result, "misc": misc, **unused}
