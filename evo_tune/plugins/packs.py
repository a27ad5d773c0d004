"""Which trainings of a run are done as one, and how many at most: its evaluator's word, and what its rules add to it.

How many is settled when a run begins, and stands in its manifest. Who is at hand to be trained with whom is for the
loop to know, and nobody waits to be.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from evo_tune.errors import OptionError, PluginError
from evo_tune.genome.trial import Candidate, Proposal
from evo_tune.genome.values import Genome
from evo_tune.plugins.evaluator import Evaluator

__all__ = ["AUTO", "Packs", "settled_pack"]

AUTO = "auto"

TIMED = "seconds"
"""The option that says how long a training is by the clock, and the metric that is its time."""


def settled_pack(
    evaluator: Evaluator,
    default: Genome,
    bound: Mapping[str, Any],
    judged_by: Sequence[str],
    given: int | str,
    device: str,
    most: int,
) -> int:
    """Return how many trainings of a run are done as one at most; 1: each is done alone.

    Args:
        evaluator: The run's.
        default: The genome by which 'auto' is settled.
        bound: The evaluator's options.
        judged_by: Metrics of objectives and constraints.
        given: A number, or 'auto': as many as the evaluator says that pay.
        device: What torch calls the device of the run's slots: 'cpu', 'cuda:0'.
        most: That there may be.

    Raises:
        OptionError: It is neither, or more than 1 and what counts is the time of one training.
        PluginError: It is more than 1, and the evaluator does not say that it supports that.
    """
    auto = given == AUTO
    many = 1 if auto else _number(given, most)
    if many == 1 and not auto:
        return 1
    timed = bool(bound.get(TIMED)) or TIMED in judged_by
    if auto:
        return 1 if timed else min(most, evaluator.pack_pays(default, bound, device))
    if timed:
        what = f"-o {TIMED}={bound[TIMED]}" if bound.get(TIMED) else f"{TIMED}, by which trainings are judged,"
        raise OptionError(
            f"--pack {given}: {what} is the time of a training that has its device to itself, and one that is done as "
            "one with others has not: leave --pack out"
        )
    if "pack" not in evaluator.supports:
        raise PluginError(
            f"--pack {given}: evaluator {evaluator.name} does not say that it supports it: if it does what "
            f"docs/evaluators.md asks for, put SUPPORTS = ['pack'] into {evaluator.path}; else leave --pack out"
        )
    return many


def _number(given: int | str, most: int) -> int:
    try:
        many = int(given) if isinstance(given, str) or type(given) is int else 0
    except ValueError:
        many = 0
    if not 1 <= many <= most:
        raise OptionError(f"--pack {given}: expected auto, or a whole number from 1 to {most}")
    return many


class Packs:
    """Says which candidates of a run may be trained as one.

    Args:
        evaluator: Its evaluator.
        options: The evaluator's, bound.
        most: How many may be; see `settled_pack`.
    """

    def __init__(self, evaluator: Evaluator, options: Mapping[str, Any], most: int) -> None:
        self.most = most
        self._evaluator = evaluator
        self._options = options

    def like(self, first: Candidate) -> Callable[[Candidate | Proposal], bool] | None:
        """Return what says whether another may be trained as one with a candidate; None if none may.

        They are of one shape, by the evaluator's word, and stand in one rung: of one budget, and all go on from a
        training, or begin with another's weights, or none does.
        """
        wanted = self._key(first) if self.most > 1 else None
        return None if wanted is None else lambda other: self._key(other) == wanted

    def _key(self, birth: Candidate | Proposal) -> Hashable:
        try:
            shape = self._evaluator.pack_key(birth.genome, self._options)
        except PluginError:  # its training alone does not need it
            return None
        return None if shape is None else (shape, birth.budget, birth.resumes is None, birth.inherits is None)
