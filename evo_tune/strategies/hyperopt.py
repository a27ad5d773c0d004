"""The tree-structured Parzen estimator through Hyperopt.

Each proposal replays the history into new Hyperopt trials and seeds Hyperopt from its generator, so nothing is kept
between two proposals.

Source: Bergstra, Yamins & Cox, Making a science of model search (ICML 2013).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from evo_tune.genome.genes import Float, Gene, centre
from evo_tune.genome.history import History
from evo_tune.genome.space import has_order
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
            suggestions = tpe.suggest(next_ids, domain, trials, seed, n_startup_jobs=self.first, verbose=False)
            point = suggestions[0]["misc"]["vals"]
            genome = {name: _from_parameter(gene, point[name][0]) for name, gene in genes.items()}
            yield Proposal(history.space.check(genome, fill_defaults=True), "tpe")


def _is_continuous(gene: Gene) -> bool:
    """Return whether Hyperopt gets the unit coordinate of a gene; else it gets the index of the value."""
    return isinstance(gene, Float) or getattr(gene, "log", False)


def _parameter(name: str, gene: Gene) -> Any:
    """Return a gene as a Hyperopt parameter."""
    from hyperopt import hp

    if _is_continuous(gene):
        return hp.uniform(name, 0.0, 1.0)
    if has_order(gene):
        return hp.uniformint(name, 0, int(gene.size) - 1)
    return hp.choice(name, list(range(int(gene.size))))


def _from_parameter(gene: Gene, number: float) -> Value:
    """Return a gene's value for a number that Hyperopt suggests."""
    return gene.decode(number if _is_continuous(gene) else centre(int(number), int(gene.size)))


def _to_parameter(gene: Gene, value: Value) -> float:
    """Return a gene's value as Hyperopt's number, the inverse of `_from_parameter`."""
    return gene.encode(value) if _is_continuous(gene) else int(gene.encode(value) * gene.size)


def _document(id: int, genome: Genome, result: dict[str, Any], genes: Mapping[str, Gene]) -> dict[str, Any]:
    """Return a trial as a Hyperopt document, with one value of each parameter."""
    from hyperopt.base import JOB_STATE_DONE, JOB_STATE_RUNNING

    values = {name: [_to_parameter(gene, genome[name])] for name, gene in genes.items()}
    misc = {"tid": id, "cmd": None, "idxs": {name: [id] for name in genes}, "vals": values}
    state = JOB_STATE_RUNNING if result["status"] == "new" else JOB_STATE_DONE
    unused = dict.fromkeys(("spec", "owner", "book_time", "refresh_time", "exp_key"))
    return {"tid": id, "state": state, "result": result, "misc": misc, **unused}
