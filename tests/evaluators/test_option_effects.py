"""Each option of each bundled evaluator does something: another value changes a number that it should change.

Made from the declarations: an option that has no row below is given another of its values and must change the loss, so
that one which is only written fails by being there. A row says what an option needs in order to matter, or that it
changes another number, and whether the loss must stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules import module as modules

from evo_tune import Choice, Context
from evo_tune.errors import OptionError
from evo_tune.options.declare import Option, dataclass_options
from evo_tune.plugins.cost import Cost
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import bundled_folder, find_evaluator
from evo_tune.training import ClassifierTraining, EarlyStopping, session
from evo_tune.training.recipe import ClassifierTask, TrainingOptions
from tests.extras import need

pytestmark = pytest.mark.xdist_group("option effects")  # what they share is trained once

NAMES = sorted(path.stem for path in bundled_folder().glob("*.py") if path.name[0] not in "_")


@dataclass(frozen=True)
class Effect:
    """What an option does.

    Args:
        value: Another value; None: one that the declaration gives.
        given: Options of both trainings, where the evaluator has them: what it needs in order to matter.
        sees: What of `Observed` must differ.
        same: What of it must not, beyond rounding.
        genome: Genes of both trainings, where the evaluator has them.
        budget: Share of the full training that both are.
    """

    value: Any = None
    given: dict[str, Any] = field(default_factory=dict)
    sees: str = "val_loss"
    same: str = ""
    genome: dict[str, Any] = field(default_factory=dict)
    budget: float = 1.0


LONGER = {"epochs": 4.0}
WSD, SGDR, ROPE = {"schedule": "wsd", **LONGER}, {"schedule": "sgdr", "cycle": 0.4, **LONGER}, {"position": "rope"}
LONG = {"context": 64, "extend_from": 16}
RISING = {"weight_decay": 0.01, "weight_decay_end": 1.0, "evaluations": 64, "tokens": 8192, "epochs": 12.0}
EVALUATED = {"evaluations": 8, **LONGER}
COST, DEARER = (Cost({"step": seconds}).text() for seconds in (1e-3, 2e-3))
SMALLER = {"base_width": 16, "base_depth": 2, "base_head": 8}

EFFECTS: dict[str, Effect] = {
    "schedule": Effect("linear"),
    "fork": Effect(True, given={"schedule": "wsd", "fork": False}, budget=0.5),
    "decay_fraction": Effect(given=WSD),
    "cycle": Effect(0.4, given={"schedule": "sgdr"}),
    "gamma": Effect(given=SGDR),
    "min_lr_ratio": Effect(0.5),
    "beta1": Effect(0.5),
    "eps": Effect(1e-3),
    "momentum": Effect(0.5, given={"optimizer": "sgd"}),
    "lr_rule": Effect("linear", genome={"batch": max}),
    "clip": Effect(0.01),
    "weight_decay": Effect(0.5),
    "weight_decay_end": Effect(1.0),
    "gap_patience": Effect(1, given=RISING),
    "ramp_from": Effect(1, sees="steps", genome={"batch": max}),
    "ramp_share": Effect(1.0, given={"ramp_from": 1}, sees="steps", genome={"batch": max}),
    "ema": Effect(0.1, given={"ema": 0.9}, sees="val_loss_ema", same="val_loss"),
    "evaluations": Effect(8, sees="points", same="val_loss"),
    "patience": Effect(1, given={"min_delta": 100.0, **EVALUATED}, sees="steps"),
    "min_delta": Effect(100.0, given={"patience": 2, **EVALUATED}, sees="steps", genome={"lr": min}),
    "precision": Effect("bf16"),
    "compile": Effect(True, sees="compiled", same="val_loss"),
    "deterministic": Effect(False, sees="strict", same="val_loss"),
    "micro_batch": Effect(min, given={"epochs": 1.0}, sees="forwards", same="val_loss"),
    "recompute": Effect(1, sees="forwards", same="val_loss"),
    "ranks": Effect(2, sees="processes"),
    "save": Effect(True, sees="checkpoint", same="val_loss"),
    "checkpoint_minutes": Effect(1e-9, sees="checkpoint", same="val_loss"),
    # Shapes.
    "window": Effect(4),
    "kv_heads": Effect(1, genome={"heads": 2}),
    "ngrams": Effect(3),
    "ffn_mult": Effect(2.0),
    "extend_from": Effect(16, given={"context": 64}),
    "extension": Effect("ntk", given={**LONG, **ROPE}),
    "extend_share": Effect(0.6, given=LONG),
    "param": Effect("completep", given=SMALLER),
    "base_width": Effect(24, given={"param": "completep", **SMALLER}),
    "base_depth": Effect(3, given={"param": "completep", **SMALLER}),
    "base_head": Effect(64, given={"param": "completep", "base_width": 8}),
    # Budgets and data.
    "tokens": Effect(8192, sees="steps"),
    "flops": Effect(2e8, given={"flops": 5e7, "tokens": None, "epochs": None}, sees="steps"),
    "epochs": Effect(1.0, sees="steps"),
    "seconds": Effect(0.02, given={"seconds": 2e-3, "cost": COST, "tokens": None, "epochs": None}, sees="steps"),
    "cost": Effect(DEARER, given={"seconds": 0.02, "cost": COST, "tokens": None, "epochs": None}, sees="steps"),
    "size": Effect("large", sees="space"),
    "eval_tokens": Effect(8192),
    "data": Effect("{other}"),
    "split": Effect("even"),
    "documents": Effect("mask", given={"data": "{documents}"}),
    "vocab": Effect(300),
    "context": Effect(16),
    "validation": Effect(0.5),
    "image_size": Effect(16),
    "flip": Effect("no"),  # images in colour are mirrored
    "crop": Effect(0.25),
    "randaugment": Effect(9),
    "quantiles": Effect(5),
    "base": Effect("{other base}"),
    "targets": Effect("qv", sees="trainable_params"),
    "keep": Effect("adapter", sees="exported"),
    "target": Effect("y2"),
    "task": Effect("regression", sees="r2"),
    "drop_unlabelled": Effect(True, given={"target": "gaps"}, sees="refused"),
    "categorical": Effect("b"),
    "ignore": Effect("a"),
    "header": Effect("none", given={"target": "column4"}, sees="refused"),
    "split_by": Effect("b"),
    "families": Effect("auto"),
    "folds": Effect(3, given={"families": "linear"}),
    "refit": Effect("none", given={"families": "linear"}, sees="exported"),
    "time": Effect("step", given={"target": "y1"}),
    "key": Effect("shop", given={"target": "y1"}),
    "horizon": Effect(2),
    "season": Effect(2),
    "step": Effect("week", given={"season": 1, "horizon": 2}),
    "known": Effect("y2", given={"target": "y1"}),
    "past": Effect("y2", given={"target": "y1"}),
    "loss": Effect("mse"),
    "levels": Effect("0.25,0.5"),
    "compare": Effect("theta", sees="theta_mase", same="val_loss"),
    "text": Effect("other_text"),
    "label": Effect("other_label"),
    "length": Effect(4),
}

TINY: dict[str, dict[str, Any]] = {
    "fine_tuning": {"base": "{base}", "data": "{text}", "tokens": 1024, "eval_tokens": 512, "context": 32},
    "language_model": {"data": "{text}", "tokens": 4096, "eval_tokens": 512, "context": 64},
    "text_classification": {"data": "{texts}", "epochs": 2.0, "length": 16},
    "forecasting": {"data": "{series}", "time": "day", "horizon": 4, "epochs": 2.0},
    "image_classification": {"data": "{images}", "epochs": 2.0, "image_size": 8},
    "tabular": {"data": "{table}", "target": "y1", "epochs": 2.0},
}
"""Trainings of a fraction of a second, on data of which little can be learnt but by heart."""

GENOMES: dict[str, dict[str, Any]] = {
    "language_model": {"width": 32, "depth": 1, "heads": 2, "batch": 512},
    "forecasting": {"batch": min, "depth": 1},
    "image_classification": {"batch": min, "depth": min},
    "text_classification": {"batch": min, "depth": 1},
    "tabular": {"batch": min, "depth": 1},
}


OTHER = {
    "series": "other_series",
    "text": "other",
    "texts": "other_texts",
    "images": "other_images",
    "table": "other_table",
}


class Bench:
    """Trains tiny genomes of an evaluator and observes them."""

    def __init__(self, evaluator: Evaluator, places: dict[str, str], folder: Path) -> None:
        self.evaluator, self.places, self.folder = evaluator, places, folder

    def options(self, given: dict[str, Any]) -> BoundEvaluator:
        """Return TINY with what is given of it, as far as the evaluator knows it."""
        tiny = TINY[self.evaluator.name]
        known = self.evaluator.options
        size = "2x64x64x512" if self.evaluator.name == "language_model" else "small"
        plain = {"precision": "fp32", "size": size, "micro_batch": None, "patience": None, "optimizer": "adamw"}
        plain |= {"evaluations": 1}
        bound = {**plain, **tiny, **given}
        bound = {name: value for name, value in bound.items() if name in known}
        return self.evaluator.bind({name: self._place(value, tiny) for name, value in bound.items()})

    def _place(self, value: Any, tiny: dict[str, Any]) -> Any:
        if value == "{other}":
            value = "{" + OTHER[tiny["data"].strip("{}")] + "}"
        return self.places.get(value.strip("{}"), value) if isinstance(value, str) else value

    def observe(self, effect: Effect, options: BoundEvaluator) -> dict[str, Any]:
        """Return what can be seen under these options: of the space, of what is exported, or of a training."""
        if effect.sees == "refused":
            try:
                return {"refused": bool(options.space) and None}
            except OptionError as error:
                return {"refused": str(error)}
        space = options.space
        if effect.sees == "space":
            return {"space": repr(space.genes)}
        own = {**GENOMES.get(self.evaluator.name, {}), **effect.genome}
        asked = {name: _value(space.genes[name], value) for name, value in own.items() if name in space.genes}
        whole = {**space.default(), **asked}
        if effect.sees == "exported":
            options.export(whole, Context(seed=1, folder=self.folder / "t"), self.folder / "model")
            weights = (self.folder / "model").glob("*.safetensors")
            return {"exported": {path.name: path.read_bytes() for path in weights}}
        return self._train(whole, options, effect.budget)

    def _train(self, genome: dict[str, Any], options: BoundEvaluator, budget: float) -> dict[str, Any]:
        made = Context(seed=1, folder=self.folder, budget=budget)
        calls, processes, strict, compiled, best = [0], [1], set(), [], [0.0]

        def launch(*_: Any, ranks: int, **__: Any) -> dict[str, float]:
            processes[0] = ranks
            return {}

        def look(*_: Any) -> None:
            calls[0] += 1
            strict.add(torch.are_deterministic_algorithms_enabled())

        restore = EarlyStopping.restore_best

        def restore_best(stopping: EarlyStopping, model: torch.nn.Module) -> None:
            best[0] = stopping.best
            restore(stopping, model)

        hook = modules.register_module_forward_pre_hook(look)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(session, "launch", launch)  # another test has real ones
                patch.setattr(EarlyStopping, "restore_best", restore_best)
                patch.setattr(torch, "compile", lambda function: compiled.append(function) or function)  # and compiles
                metrics = options.evaluate(genome, made)
        finally:
            hook.remove()
        seen = {"points": len(made.curve), "forwards": calls[0], "processes": processes[0], "best": best[0]}
        seen |= {"strict": strict, "compiled": len(compiled)}
        return {**metrics, **seen, "checkpoint": self.folder.exists()}


def _value(gene: Any, value: Any) -> Any:
    return gene.decode(1.0) if value is max else gene.decode(0.0) if value is min else value


def another(one: Option, now: Any, space: Any) -> Any:
    """Return another value of an option, from its declaration."""
    if one.name in space.optional and isinstance(space.optional[one.name], Choice):
        return next(value for value in space.optional[one.name].values if value != now)
    if one.choices:
        return next(value for value in one.choices if value not in (now, "auto"))
    if isinstance(now, bool):
        return not now
    if isinstance(now, float) and now:
        return now / 2
    raise AssertionError(f"say in EFFECTS what another value of {one.name} is")


ALIKE = ("image_classification", "text_classification")
"""Their training runs are built of what a table's is built of, by the same lines: see the test of it."""

CORE = ("language_model", "tabular")
"""The language evaluator and the classifier for which `make test` runs every option of the recipe."""

COMMON = {*dataclass_options(TrainingOptions), "epochs", "flops", "seconds", "validation"} - {"recompute"}
"""Options of those lines alone; `recompute` is each model's own."""

CASES = [(name, option) for name in NAMES for option in find_evaluator(f"bundled:{name}").options]


@cache
def _found(name: str) -> Evaluator:
    return find_evaluator(f"bundled:{name}")


_observed: dict[str, dict[str, Any]] = {}


def _before(bench: Bench, effect: Effect, options: Any) -> dict[str, Any]:
    """Return what can be seen without the other value: once for all options that need the same in order to matter."""
    sees = effect.sees if effect.sees in ("space", "exported", "refused") else "training"
    key = repr((bench.evaluator.name, sees, effect.genome, effect.budget, sorted(options.options.items())))
    if key not in _observed:
        _observed[key] = bench.observe(effect, options)
    return _observed[key]


def test_every_row_is_an_option_of_some_evaluator() -> None:
    assert EFFECTS.keys() - {option for _, option in CASES} == set()


@pytest.mark.parametrize("name", [*ALIKE, "tabular"])
def test_training_runs_that_are_alike_are_built_of_the_options_that_were_given(
    name: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hence what an option of all of them does to one training run it does to each; that each does it is a proof."""
    built: list[tuple[Any, Any]] = []

    def train(task: Any, run: Any, kind: Any) -> tuple[None, dict[str, float]]:
        built.append((task, kind))
        return None, {}

    monkeypatch.setattr(session, "train", train)
    bench = Bench(_found(name), places, tmp_path)
    options = bench.options({})
    options.evaluate(options.space.default(), Context())
    ((task, kind),) = built
    assert type(task) is ClassifierTask
    assert kind is ClassifierTraining
    assert {one: getattr(task.options, one) for one in options.options} == options.options


@pytest.mark.parametrize(
    ("name", "option"),
    [
        pytest.param(name, option, marks=pytest.mark.extended if option in COMMON and name not in CORE else ())
        for name, option in CASES
    ],
)
def test_another_value_changes_what_it_should(name: str, option: str, places: dict[str, str], tmp_path: Path) -> None:
    evaluator, effect = _found(name), EFFECTS.get(option, Effect())
    if option == "randaugment":
        pytest.importorskip("torchvision")
    if option == "compare":
        need("series")
    given = {key: value for key, value in effect.given.items() if key in evaluator.options}
    before = Bench(evaluator, places, tmp_path / "before")
    options = before.options(given)
    value = effect.value
    if value is min:
        value = int(evaluator.options[option].bounds.strip("([").partition(",")[0])
    elif value is None:
        value = another(evaluator.options[option], options.options[option], options.space)
    first = _before(before, effect, options)
    after = Bench(evaluator, places, tmp_path / "after")
    second = after.observe(effect, after.options({**given, option: value}))
    assert first.get(effect.sees) != second.get(effect.sees)
    if effect.same:
        assert second[effect.same] == pytest.approx(first[effect.same], rel=1e-5)
