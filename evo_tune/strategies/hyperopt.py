"""The tree-structured Parzen estimator through Hyperopt.

Each proposal replays the history into new Hyperopt trials and seeds Hyperopt from its generator, so nothing is kept
between two proposals.

Source: Bergstra, Yamins & Cox, Making a science of model search (ICML 2013).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.history import History
from evo_tune.genome.trial import Proposal
from evo_tune.genome.values import Genome, Value
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies import fresh

# Suggestions tried before a random genome is taken; each costs as much as the first.
ATTEMPTS = 4


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
        from hyperopt import Domain, Trials, tpe

        genes = {name: gene for name, gene in history.space.genes.items() if gene.size > 1}
        if not genes:  # Hyperopt has no parameter of one value
            return
        documents = [_document(trial.id, trial.genome, {"status": "new"}, genes) for trial in history.pending]
        for trial in (*history.failed, *history.ranking):
            result = {"status": "ok", "loss": trial.losses[0]} if trial.losses else {"status": "fail"}
            documents.append(_document(trial.id, trial.genome, result, genes))
        trials = Trials()
        trials.insert_trial_docs(sorted(documents, key=lambda document: document["tid"]))
        trials.refresh()
        domain = Domain(lambda point: 0.0, {name: _parameter(name, gene) for name, gene in genes.items()})
        for _ in range(ATTEMPTS):
            seed, next_ids = int(rng.integers(2**31)), [history.proposed_count]
            with np.errstate(all="ignore"):  # a range of 1e300 overflows in it
                suggestions = tpe.suggest(next_ids, domain, trials, seed, n_startup_jobs=self.first, verbose=False)
            point = suggestions[0]["misc"]["vals"]
            genome = {name: _from_parameter(gene, point[name][0]) for name, gene in genes.items()}
            yield Proposal(history.space.check(genome, fill_defaults=True), "tpe")


def _parameter(name: str, gene: Gene) -> Any:
    """Return a gene as a Hyperopt parameter; its logarithmic priors take logarithms as bounds."""
    from hyperopt import hp

    if isinstance(gene, Float):
        if gene.log:
            return hp.loguniform(name, math.log(gene.low), math.log(gene.high))
        return hp.uniform(name, gene.low, gene.high)
    if isinstance(gene, Int) and gene.log:
        return hp.qloguniform(name, math.log(gene.low - 0.5), math.log(gene.high + 0.5), 1)
    if isinstance(gene, Choice) and not gene.ordered:
        return hp.choice(name, list(range(gene.size)))
    return hp.uniformint(name, 0, int(gene.size) - 1)  # of an Int its steps, so that each is as likely as the others


def _from_parameter(gene: Gene, number: float) -> Value:
    """Return a gene's value for a number that Hyperopt suggests."""
    if isinstance(gene, Choice):
        return gene.values[int(number)]
    if isinstance(gene, Int):
        value = int(number) if gene.log else gene.low + gene.step * int(number)
        return min(max(value, gene.low), gene.high)
    assert isinstance(gene, Float)
    return gene.check(min(max(float(number), gene.low), gene.high))  # exp(log(low)) may be just below low


def _to_parameter(gene: Gene, value: Value) -> float:
    """Return a gene's value as Hyperopt's number, the inverse of `_from_parameter`."""
    if isinstance(gene, Choice):
        return int(gene.encode(value) * gene.size)
    if isinstance(gene, Int) and not gene.log:
        return (int(value) - gene.low) // gene.step
    return float(value)


def _document(id: int, genome: Genome, result: dict[str, Any], genes: Mapping[str, Gene]) -> dict[str, Any]:
    """Return a trial as a Hyperopt document, with one value of each parameter."""
    from hyperopt.base import JOB_STATE_DONE, JOB_STATE_RUNNING

    values = {name: [_to_parameter(gene, genome[name])] for name, gene in genes.items()}
    misc = {"tid": id, "cmd": None, "idxs": {name: [id] for name in genes}, "vals": values}
    state = JOB_STATE_RUNNING if result["status"] == "new" else JOB_STATE_DONE
    unused = dict.fromkeys(("spec", "owner", "book_time", "refresh_time", "exp_key"))
    return {"tid": id, "state": state, "result": result, "misc": misc, **unused}
