"""No step of any bundled evaluator's training asks its device for a number.

Steps are made where there are no numbers: on the meta device, to which only the host's own tensors are sent, and of
fake tensors on the CPU. There `.item()`, `.tolist()`, `.cpu()` and boolean indexing raise, whoever calls them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from evo_tune import Context
from evo_tune.training import GPT, Muon, Precision, Trainer
from evo_tune.training.hardware.device import MicroBatch
from tests.evaluators.test_option_effects import GENOMES, NAMES, Bench, _found, _value

pytestmark = pytest.mark.extended

BUSY = {"ema": 0.9, "label_smoothing": 0.1, "mixup": 0.2}
SIZES = {"context": 16, "length": 16}


class _Caught(Exception):
    """Brings a trainer out of an evaluator, before its first step."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__("caught")
        self.trainer = trainer


@pytest.fixture(params=NAMES)
def trainer(
    request: pytest.FixtureRequest, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Trainer:
    """The trainer of an evaluator's own training, with much switched on, on the CPU."""
    evaluator = _found(request.param)
    given = {name: value for name, value in {**BUSY, **SIZES}.items() if name in evaluator.options}
    bench = Bench(evaluator, places, tmp_path)
    options = bench.options(given)
    space = options.space
    asked = {**GENOMES.get(request.param, {}), "dropout": 0.1, "mixup": 0.2, "label_smoothing": 0.1}
    genome = {name: _value(space.genes[name], value) for name, value in asked.items() if name in space.genes}

    def catch(self: Trainer, *_: object) -> None:
        raise _Caught(self)

    monkeypatch.setattr(Trainer, "run", catch)
    with pytest.raises(_Caught) as caught:
        options.evaluate({**space.default(), **genome}, Context(seed=1, folder=tmp_path))
    found: Trainer = caught.value.trainer
    found.model.train()
    return found


def test_on_the_meta_device(trainer: Trainer) -> None:
    model = copy.deepcopy(trainer.model).to("meta")
    away = Trainer(model, trainer.source, trainer.recipe, loss=trainer.loss, seed=1, device="meta", late=8)
    for another in (True, False):
        assert away.advance(another) == []  # nothing is known yet
    assert away.step == 2


class _Prepared:
    """Steps whose samples a host has made and counted."""

    def __init__(self, trainer: Trainer) -> None:
        self.made = [trainer.feed(trainer.source, step) for step in range(2)]

    def window(self, step: int) -> Sequence[MicroBatch]:
        return self.made[step].window

    def target_count(self, step: int) -> int:
        return self.made[step].targets


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # torch's own, as the average is copied
def test_of_fake_tensors(trainer: Trainer) -> None:
    recipe = trainer.recipe
    if isinstance(trainer.model, GPT):  # the other optimizer, and a loss that is scaled
        recipe = replace(recipe, optimizer=Muon(lr=1e-3), precision=Precision(name="fp16"))
    source, mode = _Prepared(trainer), FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        model = copy.deepcopy(trainer.model)
    with mode:
        away = Trainer(model, source, recipe, loss=trainer.loss, seed=1, late=8)
        away.feed.shorten = None  # the host has
        for _ in range(2):
            assert away.advance() == []
        assert away.step == 2


@pytest.mark.parametrize("asking", ["item", "tolist", "cpu", "index"])
def test_they_would_raise(asking: str) -> None:
    number = torch.ones(3, device="meta")
    asked = {
        "item": lambda: number[0].item(),
        "tolist": number.tolist,
        "cpu": number.cpu,
        "index": lambda: number[number > 0],
    }
    with pytest.raises(Exception, match=r"(?i)meta|data.dependent|dynamic"):
        asked[asking]()
