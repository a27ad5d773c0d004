"""Other people's optimisers, each behind ask and tell, in a process and an environment of their own.

`search.py` runs this file with the Python of that environment. It reads one message a line from standard
input and answers on standard output, in JSON: {"play": method, "genes": ..., "seed": ..., "objectives": ...,
"evaluations": ...} begins a run, {"ask": handle} is answered by the point to try, {"tell": handle, "losses":
[...] or null} takes a result, its constraints after the losses. A point has one number a gene: a real number in
[0, 1], the index of a value, or null for a gene that is not active (Optuna only). It knows nothing of evo_tune, which
need not be installed there.

A failure is told as a failure where a tool knows such a thing (Optuna, Hyperopt), and otherwise as the worst
loss so far (Nevergrad, SMAC3, whose forest refuses the infinite cost of a crash).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
import warnings
from typing import Any, Protocol

REAL, ORDERED, UNORDERED = "real", "ordered", "unordered"
"""Kinds of genes: a real number, the index of a value on a scale, the index of a category."""

Point = list[float | None]


class Peer(Protocol):
    """One run of one optimiser."""

    def ask(self) -> tuple[Any, Point]:
        """Return a handle for `tell` and the point to try."""

    def tell(self, handle: Any, losses: list[float] | None) -> None:
        """Take a result; None is a failure."""


class Optuna:
    """A sampler of Optuna with its defaults. It is told constraints, and asks for active genes only.

    Args:
        run: The message that began the run; `first`, if given, is the first point.
        sampler: 'TPESampler' or another; None for the default.
        options: The sampler's.
    """

    def __init__(self, run: dict[str, Any], sampler: str | None, **options: Any) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.failed = optuna.trial.TrialState.FAIL
        self.genes: list[tuple[str, int, list[Any]]] = run["genes"]
        self.objectives = run["objectives"]
        if run.get("constraints"):
            options["constraints_func"] = lambda trial: trial.user_attrs["limits"]
        self.study = optuna.create_study(
            directions=["minimize"] * run["objectives"],
            sampler=getattr(optuna.samplers, sampler)(seed=run["seed"], **options) if sampler else None,
        )
        if sampler is None:
            self.study.sampler = type(self.study.sampler)(seed=run["seed"])
        if run.get("first"):
            self.study.enqueue_trial({f"g{place}": number for place, number in enumerate(run["first"])})

    def ask(self) -> tuple[Any, Point]:
        trial = self.study.ask()
        point: Point = []
        for place, (kind, size, when) in enumerate(self.genes):
            if not all(point[other] in values for other, values in when):
                point.append(None)
            elif kind == REAL:
                point.append(trial.suggest_float(f"g{place}", 0.0, 1.0))
            elif kind == ORDERED:
                point.append(trial.suggest_int(f"g{place}", 0, size - 1))
            else:
                point.append(trial.suggest_categorical(f"g{place}", list(range(size))))
        return trial, point

    def tell(self, handle: Any, losses: list[float] | None) -> None:
        if losses is None:
            self.study.tell(handle, state=self.failed)
        else:
            handle.set_user_attr("limits", losses[self.objectives :])
            self.study.tell(handle, losses[: self.objectives])


class Hyperopt:
    """Hyperopt's TPE, its suggestions taken one by one."""

    def __init__(self, run: dict[str, Any]) -> None:
        import hyperopt
        import numpy as np

        self.hyperopt = hyperopt
        self.rng = np.random.default_rng(run["seed"])
        space = []
        for place, (kind, size, _) in enumerate(run["genes"]):
            if kind == REAL:
                space.append(hyperopt.hp.uniform(f"g{place}", 0.0, 1.0))
            elif kind == ORDERED and size > 1:
                space.append(hyperopt.hp.uniformint(f"g{place}", 0, size - 1))
            else:
                space.append(hyperopt.hp.choice(f"g{place}", list(range(size))))
        self.trials = hyperopt.Trials()
        self.domain = hyperopt.base.Domain(lambda point: 0.0, space)

    def ask(self) -> tuple[Any, Point]:
        ids = self.trials.new_trial_ids(1)
        self.trials.refresh()
        docs = self.hyperopt.tpe.suggest(ids, self.domain, self.trials, int(self.rng.integers(2**31 - 1)))
        self.trials.insert_trial_docs(docs)
        self.trials.refresh()
        values = docs[0]["misc"]["vals"]
        return ids[0], [float(values[f"g{place}"][0]) for place in range(len(values))]

    def tell(self, handle: Any, losses: list[float] | None) -> None:
        result = {"status": "fail"} if losses is None else {"status": "ok", "loss": losses[0]}
        for doc in self.trials._dynamic_trials:
            if doc["tid"] == handle:
                doc.update(state=self.hyperopt.JOB_STATE_DONE, result=result)
        self.trials.refresh()


class Worst:
    """What to tell for a failure where a number is wanted: the worst loss so far; nothing before there is one."""

    def __init__(self) -> None:
        self.worst: float | None = None
        self.waiting: list[Any] = []

    def told(self, handle: Any, losses: list[float] | None) -> list[tuple[Any, float, bool]]:
        """Return (handle, number, failed) of all that can be told now."""
        if losses is None:
            self.waiting.append(handle)
            ready = []
        else:
            self.worst = losses[0] if self.worst is None else max(self.worst, losses[0])
            ready = [(handle, losses[0], False)]
        if self.worst is not None:
            ready += [(failure, self.worst, True) for failure in self.waiting]
            self.waiting = []
        return ready


class Nevergrad:
    """Nevergrad's NGOpt, which chooses an optimiser by the space and the budget."""

    def __init__(self, run: dict[str, Any]) -> None:
        import nevergrad as ng

        genes = []
        for kind, size, _ in run["genes"]:
            if kind == REAL:
                genes.append(ng.p.Scalar(lower=0.0, upper=1.0))
            elif kind == ORDERED and size > 1:
                genes.append(ng.p.Scalar(init=(size - 1) / 2, lower=0, upper=size - 1).set_integer_casting())
            else:
                genes.append(ng.p.Choice(list(range(size))))
        space = ng.p.Tuple(*genes)
        space.random_state.seed(run["seed"])
        self.optimiser = ng.optimizers.NGOpt(space, budget=run["evaluations"], num_workers=1)
        self.worst = Worst()

    def ask(self) -> tuple[Any, Point]:
        candidate = self.optimiser.ask()
        return candidate, [float(number) for number in candidate.value]

    def tell(self, handle: Any, losses: list[float] | None) -> None:
        for candidate, loss, _ in self.worst.told(handle, losses):
            self.optimiser.tell(candidate, loss)


class SMAC3:
    """SMAC3's facade for the optimisation of hyperparameters: a random forest and its initial design."""

    def __init__(self, run: dict[str, Any]) -> None:
        import ConfigSpace
        import smac
        from smac.runhistory.dataclasses import TrialValue
        from smac.runhistory.enumerations import StatusType

        self.value, self.status = TrialValue, StatusType
        space = ConfigSpace.ConfigurationSpace(seed=run["seed"])
        for place, (kind, size, _) in enumerate(run["genes"]):
            name = f"g{place}"
            if kind == REAL:
                space.add(ConfigSpace.Float(name, (0.0, 1.0)))
            elif kind == ORDERED and size > 1:
                space.add(ConfigSpace.Integer(name, (0, size - 1)))
            else:
                space.add(ConfigSpace.Categorical(name, list(range(size))))
        self.size = len(run["genes"])
        scenario = smac.Scenario(
            space,
            deterministic=True,
            n_trials=run["evaluations"],
            seed=run["seed"],
            output_directory=tempfile.mkdtemp(prefix="smac-"),
        )
        facade = smac.HyperparameterOptimizationFacade
        self.worst = Worst()
        self.smac = facade(scenario, lambda config, seed: 0.0, logging_level=False, overwrite=True)

    def ask(self) -> tuple[Any, Point]:
        info = self.smac.ask()
        return info, [float(info.config[f"g{place}"]) for place in range(self.size)]

    def tell(self, handle: Any, losses: list[float] | None) -> None:
        for info, loss, failed in self.worst.told(handle, losses):
            status = self.status.CRASHED if failed else self.status.SUCCESS
            self.smac.tell(info, self.value(cost=loss, status=status))


MAKERS = {
    "optuna tpe": lambda run: Optuna(run, "TPESampler"),
    "optuna tpe, constant liar": lambda run: Optuna(run, "TPESampler", constant_liar=True),
    "optuna gp": lambda run: Optuna(run, "GPSampler"),
    "optuna cma-es": lambda run: Optuna(run, "CmaEsSampler", warn_independent_sampling=False),
    "optuna random": lambda run: Optuna(run, "RandomSampler"),
    "optuna nsga2": lambda run: Optuna(run, "NSGAIISampler"),
    "optuna default": lambda run: Optuna(run, None),
    "hyperopt tpe": Hyperopt,
    "nevergrad ngopt": Nevergrad,
    "smac3": SMAC3,
}


def serve(lines: Any, answer: Any) -> None:
    """Play until the messages end.

    Args:
        lines: Messages, one a line.
        answer: File for the answers.
    """
    peer: Peer | None = None
    handles: dict[int, Any] = {}
    for line in lines:
        message = json.loads(line)
        reply: Any = None
        if "play" in message:
            peer, handles = MAKERS[message["play"]](message), {}
        elif "ask" in message:
            assert peer is not None
            handles[message["ask"]], reply = peer.ask()
        else:
            assert peer is not None
            peer.tell(handles.pop(message["tell"]), message["losses"])
        print(json.dumps(reply), file=answer, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with os.fdopen(os.dup(1), "w") as own, contextlib.redirect_stdout(sys.stderr):  # some of them print
        serve(sys.stdin, own)
