"""Trainings of an evaluator that are trained as one end as each would have ended alone."""

from __future__ import annotations

import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from evo_tune import Minimize
from evo_tune.errors import RecipeError
from evo_tune.plugins.context import Context, Pruned
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import GPT, Diverged, Throughput, course
from evo_tune.training.packs import session

GENOME = {
    **{"lr": 1e-2, "batch": 128, "depth": 1, "width": 16, "heads": 2, "dropout": 0.1, "weight_decay": 0.1},
    **{"warmup": 0.05, "optimizer": "adamw", "context": 16},
}
GENOMES = [GENOME, {**GENOME, "lr": 3e-3, "dropout": 0.0}, {**GENOME, "weight_decay": 0.3, "warmup": 0.0}]
OPTIONS = {"size": "tiny", "tokens": 128 * 24, "precision": "fp32", "eval_tokens": 256}


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator("language_model")


class Trainings:
    """Three trainings of a shape, alone or as one, in folders of their own."""

    def __init__(self, evaluator: Evaluator, folder: Path, **options: Any) -> None:
        self.evaluator, self.folder = evaluator, folder
        self.options = evaluator.bind({**OPTIONS, **options})
        self.contexts: dict[str, list[Context]] = {}

    def _begin(self, name: str, resume: str | None, given: dict[str, Any], own: dict[int, dict[str, Any]]) -> None:
        def resumed(number: int) -> dict[str, Any]:
            return {} if resume is None else {"resume_folder": self.folder / resume / str(number)}

        self.contexts[name] = [
            Context(
                seed=5 + number,
                folder=self.folder / name / str(number),
                **{**resumed(number), **given, **own.get(number, {})},
            )
            for number in range(len(GENOMES))
        ]

    def alone(self, name: str, resume: str | None = None, **given: Any) -> list[Any]:
        self._begin(name, resume, given, {})
        pairs = zip(GENOMES, self.contexts[name], strict=True)
        return [self.evaluator.evaluate(genome, context, self.options) for genome, context in pairs]

    def packed(self, name: str, resume: str | None = None, own: Any = None, genomes: Any = None, **given: Any) -> Any:
        self._begin(name, resume, given, own or {})
        return self.evaluator.evaluate_pack(genomes or GENOMES, self.contexts[name], self.options)

    def curves(self, name: str) -> list[list[tuple[float, dict[str, float]]]]:
        return [context.curve for context in self.contexts[name]]


def same(mine: dict[str, float], theirs: dict[str, float]) -> None:
    mine, theirs = ({k: v for k, v in one.items() if k != "tokens_per_second"} for one in (mine, theirs))
    assert mine == pytest.approx(theirs, rel=1e-3)
    for name in ("steps", "tokens", "flops", "params", "micro_batch", "peak_memory", "final_lr_fraction"):
        assert mine[name] == theirs[name]


def curves_agree(mine: Any, theirs: Any) -> None:
    for one, other in zip(mine, theirs, strict=True):
        assert [fraction for fraction, _ in one] == [fraction for fraction, _ in other]
        for (_, point), (_, expected) in zip(one, other, strict=True):
            assert point == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "optimizer": "muon", "patience": 1}], ids=["plain", "several"])
def test_each_is_told_as_if_it_were_alone(evaluator: Evaluator, tmp_path: Path, options: dict[str, Any]) -> None:
    trainings = Trainings(evaluator, tmp_path, **options)
    expected = trainings.alone("alone", test=True)
    found = trainings.packed("packed", test=True, keep=True)
    for mine, theirs in zip(found, expected, strict=True):
        same(mine, theirs)
        assert "test_loss" in mine
    curves_agree(trainings.curves("packed"), trainings.curves("alone"))
    assert all(len(curve) > 1 for curve in trainings.curves("packed"))
    assert len({mine["val_loss"] for mine in found}) == 3
    assert GPT.load(tmp_path / "packed" / "1" / "model").config.width == 16


def test_a_part_is_gone_on_from_alone_and_as_one(evaluator: Evaluator, tmp_path: Path) -> None:
    """With a fork: what is judged is decayed and thrown away, and what goes on is the training that had no rung."""
    trainings = Trainings(evaluator, tmp_path, fork=True, schedule="wsd", decay_fraction=0.2)
    whole = trainings.alone("whole")
    for mine, theirs in zip(
        trainings.packed("part", budget=0.5), trainings.alone("part alone", budget=0.5), strict=True
    ):
        same(mine, theirs)
        assert mine["steps"] == 12
    curves_agree(trainings.curves("part"), trainings.curves("part alone"))
    for resumed in (trainings.alone("rest alone", resume="part"), trainings.packed("rest", resume="part alone")):
        for mine, theirs in zip(resumed, whole, strict=True):
            assert mine.pop("resumed_step") == 10  # decay_fraction of the part is trained twice
            same(mine, theirs)


def test_who_ends_early_leaves_the_others_to_go_on(evaluator: Evaluator, tmp_path: Path) -> None:
    trainings = Trainings(evaluator, tmp_path)
    expected = trainings.alone("alone")
    objective = (Minimize("val_loss"),)
    own: dict[str, dict[int, dict[str, Any]]] = {
        "pruned": {1: {"stop_if": [(0.2, "val_loss", 0.1)], "objectives": objective}},
        "damaged": {1: {"resume_folder": tmp_path / "damaged before"}},
        "part": {1: {"budget": 0.25}},
    }
    (tmp_path / "damaged before").mkdir()
    (tmp_path / "damaged before" / "checkpoint.pt").write_bytes(b"torn")
    ends = {name: trainings.packed(name, own=given) for name, given in own.items()}
    for name, found in ends.items():
        for number in (0, 2):
            same(found[number], expected[number])
        if name == "part":
            assert found[1]["steps"] == 6
        else:
            assert isinstance(found[1], Pruned if name == "pruned" else RecipeError)
    assert len(trainings.curves("pruned")[1]) == 1


def test_heirs_begin_with_weights_and_who_diverges_by_them_is_told_so(evaluator: Evaluator, tmp_path: Path) -> None:
    trainings = Trainings(evaluator, tmp_path)
    expected = trainings.alone("alone", keep=True)
    sick = GPT.load(tmp_path / "alone" / "1" / "model")
    with torch.no_grad():
        sick.norm.weight.fill_(torch.nan)
    sick.save(tmp_path / "sick" / "model")
    own = {0: {"inherit_folder": tmp_path / "alone" / "0"}, 1: {"inherit_folder": tmp_path / "sick"}}
    found = trainings.packed("packed", own=own)
    assert isinstance(found[1], Diverged)
    assert found[1].step == 0
    same(found[2], expected[2])
    heir = Context(seed=5, folder=tmp_path / "heir", **own[0])
    same(found[0], evaluator.evaluate(GENOMES[0], heir, trainings.options))
    assert found[0]["val_loss"] < expected[0]["val_loss"]


def test_there_must_be_memory_for_all(evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(evaluator, tmp_path)
    one = trainings.packed("packed")[0]["peak_memory"]
    for factor, fits in ((3.5, True), (3.1, False)):
        monkeypatch.setattr(session, "device_memory", lambda device, factor=factor: factor * one)
        if fits:
            trainings.packed("packed")
        else:
            with pytest.raises(RecipeError, match="3 trainings"):
                trainings.packed("packed")


def test_speed_is_of_all_that_share_the_time(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that is one second further whenever it is looked at, once a step of each."""
    ticks = itertools.count()
    monkeypatch.setattr(course, "Throughput", partial(Throughput, clock=lambda: float(next(ticks))))
    trainings = Trainings(evaluator, tmp_path)
    for one in (*trainings.alone("alone"), *trainings.packed("packed")):
        assert one["tokens_per_second"] == 128.0


def test_genomes_of_one_key_have_one_shape(evaluator: Evaluator) -> None:
    options = evaluator.bind(OPTIONS)
    key = evaluator.pack_key(GENOME, options)
    assert key is not None
    for name, value in {"lr": 0.02, "dropout": 0.2, "weight_decay": 0.2, "warmup": 0.1}.items():
        assert evaluator.pack_key({**GENOME, name: value}, options) == key
    for name, value in {"batch": 256, "depth": 2, "width": 32, "heads": 1, "optimizer": "muon", "context": 32}.items():
        assert evaluator.pack_key({**GENOME, name: value}, options) not in (key, None)
    for given in ({"ema": 0.9}, {"attention_dropout": 0.1}, {"ramp_from": 16}, {"tokens": 128 * 25}):
        assert evaluator.pack_key(GENOME, evaluator.bind({**OPTIONS, **given})) not in (key, None)
    for given in ({"clip": 0.5}, {"z_loss": 1e-3}, {"schedule": "cosine"}, {"beta2": 0.99}, {"patience": 2}):
        assert evaluator.pack_key(GENOME, evaluator.bind({**OPTIONS, **given})) == key


@pytest.mark.parametrize(
    "given",
    [
        {"tokens": None, "seconds": 5.0},
        {"ranks": 2},
        {"compile": True},
        {"recompute": 1},
        {"precision": "fp16"},
        {"optimizer": "sgd"},
        {"context": 16, "extend_from": 8},
        {"grow_from": "1x8"},
    ],
    ids=lambda given: max(given),
)
def test_what_cannot_be_trained_as_one_has_no_key(evaluator: Evaluator, given: dict[str, Any]) -> None:
    genome = {k: v for k, v in GENOME.items() if k not in given} | ({"depth": 2} if "grow_from" in given else {})
    options = evaluator.bind({k: v for k, v in {**OPTIONS, **given}.items() if v is not None})
    assert evaluator.pack_key(genome, options) is None
    assert evaluator.pack_pays(genome, options, "cpu") == 1


def test_a_pack_pays_where_a_step_is_small(evaluator: Evaluator) -> None:
    options = evaluator.bind(OPTIONS)
    large, unsound = {**GENOME, "batch": 2048, "width": 96}, {**GENOME, "width": 17}
    for genome, device, many in (
        (GENOME, "cpu", 8),
        ({**GENOME, "batch": 2048, "width": 48}, "cpu", 8),
        (large, "cpu", 1),
        (unsound, "cpu", 1),
        (GENOME, "mps", 1),
        (GENOME, "cuda:1", 8),
        ({**GENOME, "depth": 4, "batch": 2**20, "width": 96}, "cuda", 1),
    ):
        assert evaluator.pack_pays(genome, options, device) == many
    assert 1 < evaluator.pack_pays({**large, "batch": 2**12}, options, "cuda") < 8


def test_keys_are_known_without_torch() -> None:
    program = (
        "import sys\n"
        "from evo_tune.plugins.find import find_evaluator\n"
        "evaluator = find_evaluator('language_model')\n"
        f"assert evaluator.pack_key({GENOME!r}, evaluator.bind({OPTIONS!r}))\n"
        f"assert evaluator.pack_pays({GENOME!r}, evaluator.bind({OPTIONS!r}), 'cpu')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_one_thread_is_asked_for_and_put_back(evaluator: Evaluator, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    Trainings(evaluator, tmp_path).packed("packed", threads=1)
    assert torch.get_num_threads() == before
