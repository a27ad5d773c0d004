"""Language models that begin smaller (`-o grow_from`): one budget, one training in parts, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from evo_tune import Context
from evo_tune.cli import cli
from evo_tune.errors import OptionError, RecipeError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import GPT, Trainer, TrainingWindows
from evo_tune.training.extension import next_trainer
from evo_tune.training.recipe import GPTConfig, flops_per_token

TINY = {"size": "2x64x64x512", "tokens": 8192, "eval_tokens": 256, "grow_from": "1x32", "context": 64}
SHAPE = {"depth": 2, "width": 48, "heads": 3, "dropout": 0.1, "lr": 1e-2, "batch": 512}

Train = Callable[..., tuple[dict[str, float], Context]]


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator("bundled:language_model")


@pytest.fixture
def train(evaluator: Evaluator, tmp_path: Path) -> Train:
    """Train one genome up to a budget, in a folder of its own; keywords are options."""

    def run(budget: float = 1.0, after: Context | None = None, **options: Any) -> tuple[dict[str, float], Context]:
        bound = evaluator.bind({**TINY, **options})
        genome = {**bound.space.default(), **SHAPE}
        folder = tmp_path / f"{budget:.2f}{'' if after is None else ' after'}"
        context = Context(seed=1, budget=budget, folder=folder, resume_folder=after and after.folder)
        return bound.evaluate(genome, context), context

    return run


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("tokens_per_second", "resumed_step")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.proof),
        {"optimizer": "muon", "ema": 0.5, "position": "rope", "ffn": "swiglu"},
        {"weight_decay_end": 0.3, "gap_patience": 1, "evaluations": 8, "window": 8, "qk_norm": True, "tokens": 16384},
        {"ramp_from": 128, "ramp_share": 0.5, "optimizer": "sgd", "bias": True, "tied": False},
    ],
    ids=["plain", "muon", "gap", "ramp"],
)
def test_in_parts_it_is_one_training_in_either_phase(train: Train, options: dict[str, Any]) -> None:
    whole, told = train(**options)
    _, small = train(0.25, **options)
    _, large = train(0.8, small, **options)
    rest, last = train(1.0, large, **options)
    assert rest["resumed_step"] > 0.7 * whole["steps"]
    assert without_clock(rest) == without_clock(whole)
    points = small.curve + large.curve + last.curve
    assert [point for point in points if point in told.curve] == told.curve


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_phases_share_one_budget(evaluator: Evaluator, train: Train, share: float) -> None:
    metrics, _ = train(tokens=None, flops=4e9, grow_share=share)
    assert metrics["flops"] == pytest.approx(4e9, rel=0.05)
    shape = {"context": 64, "depth": 2, "width": 48, "heads": 3, "position": "rope"}
    small, large = (GPTConfig(**{**shape, **other}) for other in ({"depth": 1, "width": 32, "heads": 2}, {}))
    tokens = 4e9 * (share / flops_per_token(small) + (1 - share) / flops_per_token(large))
    assert metrics["tokens"] == pytest.approx(tokens, rel=0.05)
    assert metrics["params"] == large.parameters
    bound = evaluator.bind({**TINY, "tokens": None, "flops": 4e9, "grow_share": share})
    known = bound.estimate({**bound.space.default(), **SHAPE})
    assert {name: metrics[name] for name in known} == known


def test_the_larger_model_reads_on_and_computes_again_what_the_options_say(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def spy(trainer: Trainer, source: TrainingWindows, config: GPTConfig, **rest: Any) -> Trainer:
        further = next_trainer(trainer, source, config, **rest)
        made.append((trainer, source, further))
        return further

    monkeypatch.setattr("evo_tune.training.reading.next_trainer", spy)
    train(recompute=1)
    ((trainer, source, further),) = made
    assert source.first_window == trainer.source.total > 0
    assert further.model.recompute == 1
    assert source.first_step == trainer.step


def test_the_loss_goes_on_where_it_was(train: Train) -> None:
    """The last point of the small model, and one after a step of the large one."""
    _, context = train(tokens=16384, evaluations=32, grow_share=0.5)
    losses = [metrics["val_loss"] for _, metrics in context.curve]
    small, large = losses[15], losses[16]
    assert abs(large - small) < 0.5 * (losses[0] - losses[15])
    assert losses[-1] < small


@pytest.mark.parametrize(("size", "start"), [("small", "2x48"), ("medium", "3x96"), ("large", "12x768")])
def test_a_space_has_no_genome_that_cannot_be_grown(evaluator: Evaluator, size: str, start: str) -> None:
    bound = evaluator.bind({**TINY, "size": size, "grow_from": start})
    space, rng = bound.space, np.random.default_rng(1)
    depth, width = map(int, start.split("x"))
    genomes = [space.default(), *(space.sample(rng) for _ in range(100))]
    for genome in genomes:
        assert genome["depth"] >= depth
        assert genome["width"] >= width
        assert width % (genome["width"] // genome["heads"]) == 0
        assert bound.estimate(genome)["tokens"] > 0
    assert len({genome["heads"] for genome in genomes}) > 2


def test_a_model_of_the_same_size_is_trained_as_it_is(evaluator: Evaluator, train: Train) -> None:
    grown, _ = train(grow_from="2x48")
    plain, _ = train(grow_from=None)
    assert without_clock(grown) == without_clock(plain)


def test_what_is_exported_is_the_grown_model(evaluator: Evaluator, tmp_path: Path) -> None:
    bound = evaluator.bind({**TINY, "tokens": 2048})
    genome = {**bound.space.default(), **SHAPE}
    metrics = bound.export(genome, Context(seed=1, folder=tmp_path / "t"), tmp_path / "model")
    model = GPT.load(tmp_path / "model")
    assert (model.config.depth, model.config.width, model.config.heads) == (2, 48, 3)
    assert metrics["params"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grow_from": "big"}, "expected DEPTHxWIDTH, such as 2x64"),
        ({"grow_from": "0x64"}, "expected DEPTHxWIDTH"),
        ({"patience": 3}, "-o grow_from and -o patience"),
        ({"extend_from": 32}, "-o grow_from and -o extend_from"),
        ({"grow_from": "9x32"}, "expected up to 4x"),
        ({"grow_from": "1x4096"}, "the largest of the space"),
        ({"grow_from": "1x44"}, "a multiple of the space's 8"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(evaluator: Evaluator, options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told) as caught:
        _ = evaluator.bind({**TINY, **options}).space
    assert "\n" not in str(caught.value)


def test_a_genome_below_the_smaller_model_is_refused(evaluator: Evaluator) -> None:
    bound = evaluator.bind({**TINY, "grow_from": "2x64"})
    with pytest.raises(RecipeError, match="grow_from='2x64'"):
        bound.estimate({**bound.space.default(), **SHAPE})


def test_rungs_do_not_go_with_it(tmp_path: Path) -> None:
    flags = ["--fidelity", "1/3,1"]
    command = ["run", "language_model", "-o", "grow_from=1x32", "--trials", "2", "--store", str(tmp_path), *flags]
    result = CliRunner().invoke(cli, command)
    assert isinstance(result.exception, OptionError)
    assert "-o grow_from" in str(result.exception)
    assert flags[0] in str(result.exception)
    assert not list(tmp_path.iterdir())
