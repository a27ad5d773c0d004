"""No training of a bundled evaluator needs an operator that has no deterministic algorithm on a GPU.

torch raises only when such an operator runs on a GPU, in the middle of a training. So the operators of whole trainings
are recorded here on the CPU, and compared with the list in torch's documentation (`use_deterministic_algorithms`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evo_tune.plugins.context import Context
from evo_tune.plugins.find import find_evaluator
from tests.evaluators.test_option_effects import GENOMES, Bench, _value

# Names of ATen's operators for the entries of the documentation that raise an error.
RAISING = re.compile(
    r"(adaptive_)?avg_pool3d.*backward|_?adaptive_avg_pool2d_backward|_?adaptive_avg_pool3d|adaptive_max_pool2d_backward"
    r"|fractional_max_pool[23]d.*|max_unpool[23]d|upsample_(linear1d|bilinear2d|bicubic2d|trilinear3d|.*_aa)_backward"
    r"|reflection_pad[123]d_backward|nll_loss2d.*|_?ctc_loss_backward|_embedding_bag_.*backward|put_?|histc|bincount"
    r"|kthvalue|median|nanmedian|grid_sampler_[23]d_backward|cumsum_?|cumprod_?|scatter_reduce_?|resize_?"
)


class Recorder(TorchDispatchMode):
    """Records operators that would raise on a GPU; those on whole numbers have deterministic algorithms there."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.raising: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function).split(".")[1]
        self.names.add(name)
        floats = any(isinstance(arg, torch.Tensor) and arg.is_floating_point() for arg in args)
        if RAISING.fullmatch(name) and floats:
            self.raising.add(name)
        return function(*args, **(kwargs or {}))


def test_an_operator_of_the_list_is_recorded() -> None:
    with Recorder() as recorder:
        torch.arange(3).cumsum(0)
        assert not recorder.raising
        image = torch.ones(1, 1, 4, 4, requires_grad=True)
        torch.nn.functional.interpolate(image, 8, mode="bilinear").sum().backward()
        torch.ones(3).cumsum(0)
    assert recorder.raising == {"upsample_bilinear2d_backward", "cumsum"}


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "language_model": [{"optimizer": "muon", "ema": 0.9, "dropout": 0.1, "patience": 2}, {"documents": "mask"}],
    "fine_tuning": [{}],
    "text_classification": [{"optimizer": "muon", "mixup": 0.2}],
    "forecasting": [{"dropout": 0.1}],
    "image_classification": [{"mixup": 0.2}],
    "tabular": [{"optimizer": "sgd"}],
}


@pytest.mark.extended
@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, several in OPTIONS.items() for options in several], ids=str
)
def test_trainings_use_no_operator_without_a_deterministic_algorithm(
    name: str, options: dict[str, Any], places: dict[str, str], tmp_path: Path
) -> None:
    bench = Bench(find_evaluator(f"bundled:{name}"), places, tmp_path)
    bound = bench.options(options)
    genes = bound.space.genes
    tiny = {gene: value for gene, value in GENOMES.get(name, {}).items() if gene in genes}
    genome = {**bound.space.default(), **{gene: _value(genes[gene], value) for gene, value in tiny.items()}}
    with Recorder() as recorder:
        bound.evaluate(genome, Context(seed=1, folder=tmp_path / "trial", test=True))
    assert {"mm", "addmm"} & recorder.names
    assert recorder.raising == set()
