"""Hugging Face's Trainer through its evaluator: arguments, curves, a prune, and rungs that are the whole training."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evo_tune import Context, Minimize, Search
from evo_tune.errors import OptionError
from evo_tune.plugins.context import Pruned
from evo_tune.plugins.find import find_evaluator
from tests.here import Here

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = [pytest.mark.xdist_group("transformers"), pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "integrations" / "hf_trainer.py"
STEPS = 25
GENOME = {"learning_rate": 3e-3, "per_device_train_batch_size": 8, "warmup_ratio": 0.2, "weight_decay": 0.1}


@pytest.fixture(autouse=True)
def _theirs() -> Iterator[None]:
    """Leave their own warnings to them, and train on one thread as a worker does."""
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def evaluated(context: Context, steps: int = STEPS, **genome: Any) -> dict[str, float]:
    plugin = find_evaluator(str(EXAMPLE))
    metrics: dict[str, float] = plugin.bind({"steps": steps}).evaluate({**GENOME, **genome}, context)
    return metrics


def test_genes_that_are_arguments_become_them(tmp_path: Path) -> None:
    from evo_tune.integrations.transformers import training_arguments

    context = Context(seed=7, folder=tmp_path)
    made = training_arguments(context, {**GENOME, "depth": 3}, max_steps=40, lr_scheduler_type="cosine")
    assert made.learning_rate == 3e-3
    assert made.per_device_train_batch_size == 8
    assert made.weight_decay == 0.1
    assert made.get_warmup_steps(40) == 8
    assert (made.seed, made.max_steps, made.lr_scheduler_type) == (7, 40, "cosine")
    assert made.output_dir == str(tmp_path)
    assert made.report_to == []
    with pytest.raises(OptionError, match="learning_rate is a gene; leave one of the two out"):
        training_arguments(context, GENOME, learning_rate=1.0)
    with pytest.raises(OptionError, match="have no such argument"):
        training_arguments(context, GENOME, lerning_rate=1.0)


def test_rungs_are_the_training_that_had_none(tmp_path: Path) -> None:
    whole = Context(seed=3, folder=tmp_path / "whole")
    expected = evaluated(whole)
    contexts = [
        Context(seed=3, budget=0.28, folder=tmp_path / "first"),  # in the midst of an epoch, and between evaluations
        Context(seed=3, budget=0.6, folder=tmp_path / "second", resume_folder=tmp_path / "first"),
        Context(seed=3, folder=tmp_path / "third", resume_folder=tmp_path / "second"),
    ]
    ends = [evaluated(context) for context in contexts]
    assert ends[-1] == expected
    assert ends[0]["eval_loss"] > ends[1]["eval_loss"] > ends[2]["eval_loss"]
    assert [context.curve[-1][0] for context in contexts] == [0.28, 0.6, 1.0]
    assert contexts[2].curve[0][0] > 0.6
    joined = {at: point for context in contexts for at, point in context.curve}
    assert [joined[at] for at, _ in whole.curve] == [point for _, point in whole.curve]
    assert "eval_loss" in whole.curve[0][1]
    assert not list((tmp_path / "third").glob("checkpoint-*"))  # nothing goes on from a whole one


def test_a_hopeless_training_is_stopped(tmp_path: Path) -> None:
    bound = ((0.4, "eval_loss", 0.5),)
    context = Context(seed=3, folder=tmp_path, stop_if=bound, objectives=[Minimize("eval_loss")])
    with pytest.raises(Pruned, match=r"eval_loss=.* at 40% is beyond its bound"):
        evaluated(context)
    assert [at for at, point in context.curve if "eval_loss" in point] == [0.2, 0.4]


def test_the_example_runs_in_rungs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo_tune.loop.slots.open_slots", lambda task, *more: [Here(task)])
    options = {"steps": 10}
    search = Search(str(EXAMPLE), options=options, fidelity="0.5,1", trials=2, population=2, store=tmp_path).run()
    assert [trial.outcome.status for trial in search.trials] == ["ok"] * len(search.trials)
    resumed = [trial for trial in search.trials if trial.candidate.resumes is not None]
    assert resumed
    assert all(trial.outcome.curve[0][0] > 0.5 for trial in resumed)
    assert search.best is not None
    assert len(EXAMPLE.read_text().splitlines()) < 40


MYDATA = """
from transformers import LlamaConfig, LlamaForCausalLM

training = test = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 32
SHAPE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def make_model(genome):
    return LlamaForCausalLM(LlamaConfig(vocab_size=8, pad_token_id=0, **SHAPE))
"""


def test_the_documented_evaluators_are_evaluators(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
    found = re.findall(r"^```python\n# evaluators/(mytrainer\w*\.py)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mydata.py").write_text(MYDATA)
    assert len(found) == 2
    for name, text in found:
        (tmp_path / name).write_text(text)
        plugin = find_evaluator(str(tmp_path / name))
        assert plugin.supports == ("budget", "curve")
    assert plugin.options["ranks"].default == 2
    plugin = find_evaluator(str(tmp_path / "mytrainer.py"))
    options, context = plugin.bind({"steps": 2}), Context(folder=tmp_path / "trial")
    metrics = options.evaluate(options.space.default(), context)
    assert metrics == context.curve[-1][1]
    assert "eval_loss" in metrics
