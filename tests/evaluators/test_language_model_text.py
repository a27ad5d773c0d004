"""How much text a size of the language model asks for, and how much of it judges: told by options, never by genomes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from evo_tune import Context
from evo_tune.plugins.cost import Cost
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import GPT
from evo_tune.training.recipe import GPT_SIZES
from evo_tune.training.recipe.data.texts import BOUNDARY

SIZES = ("small", "medium", "large")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return find_evaluator("language_model").module


@pytest.fixture
def long(tmp_path: Path) -> str:
    """A file of as much text as the large size asks for."""
    (tmp_path / "long.txt").write_bytes(b"abcdefg\n" * 300_000)
    return str(tmp_path / "long.txt")


@pytest.fixture
def short(tmp_path: Path) -> str:
    (tmp_path / "short.txt").write_bytes(b"abcdefg\n" * 3000)
    return str(tmp_path / "short.txt")


@pytest.mark.parametrize("size", SIZES)
def test_what_judges_takes_about_a_hundredth_of_the_trainings_arithmetic(module: ModuleType, size: str) -> None:
    options = module.Options(size=size)
    default = {name: gene.middle() for name, gene in module.SPACE(options).genes.items()}
    task = module._task(default, options)
    assert 0.01 <= task.scored / 3 / task.estimate()["tokens"] <= 0.02
    assert task.scored & (task.scored - 1) == 0, "a power of two: stable under small changes"


@pytest.mark.parametrize("given", [{}, {"flops": 1e13}, {"tokens": 2_000_000}])
def test_the_same_bytes_judge_every_genome(module: ModuleType, given: dict[str, object]) -> None:
    options = module.Options(size="medium", **given)
    space = module.SPACE(options)
    small = space.check({name: gene.decode(0.0) for name, gene in space.genes.items()})
    large = space.check({name: gene.decode(1.0) for name, gene in space.genes.items()})
    assert module._task(small, options).scored == module._task(large, options).scored


def test_no_more_text_is_judged_than_is_held_out(module: ModuleType, long: str, short: str) -> None:
    def judged(data: str) -> float:
        options = module.Options(data=data, size="1x32", eval_tokens=50_000, evaluations=4)
        return module._task(module.SPACE(options).default(), options).judged  # type: ignore[no-any-return]

    assert judged(long) == 2 * 50_000 + 12_500
    assert judged(short) == 2 * 1200 + 12_500, "a twentieth of 24,000 bytes"


def test_a_budget_of_ones_own_is_judged_by_its_share(module: ModuleType) -> None:
    def scored(**given: object) -> int:
        options = module.Options(size="2x64x64x512", **given)
        return int(options.bytes_to_score(**options.default_training))

    assert scored(tokens=5000) == scored(flops=1e8) == 8192, "the least"
    assert scored(tokens=2_000_000) == 65536
    assert scored(flops=1.5e12) == 65536
    assert scored(tokens=2_000_000, eval_tokens=1000) == 1000


def test_auto_on_a_gpu_is_the_largest_size_with_text_enough(module: ModuleType, long: str, short: str) -> None:
    def size(data: str, device: str, **given: object) -> str:
        return str(module._size(module.Options(data=data, **given), device))

    assert size(long, "cuda:0").startswith("4x128")
    assert size(short, "cuda:0").startswith("1x32")
    assert size(long, "cpu") == str(GPT_SIZES["tiny"])
    assert size("", "cuda:0", flops=1e12) == size("", "cpu", flops=1e12), "a budget decides on any device"
    assert size("", "cuda:0", size="large") == str(GPT_SIZES["large"])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"plain text\n" * 9000, ""),
        ("Grüße, мир, 世界\n".encode() * 9000, ""),
        ("Grüße\n".encode("latin-1") * 9000, "text in another encoding, such as Latin-1"),
        ("Grüße\n".encode("utf-16") * 9000, "UTF-16"),
        ("plain\n".encode("utf-16-le") * 9000, "UTF-16"),
        (np.random.default_rng(0).bytes(60_000), "binary data"),
    ],
)
def test_a_warning_says_that_a_file_is_not_utf8(module: ModuleType, tmp_path: Path, written: bytes, said: str) -> None:
    (tmp_path / "one.txt").write_bytes(written)
    (tmp_path / "two.txt").write_bytes(b"text\n" * 9000)
    found = module.remarks(module.Options(size="2x64", data=str(tmp_path), tokens=1000))
    assert len(found) == bool(said)
    assert not said or f"{tmp_path / 'one.txt'} looks like {said}, not like UTF-8 text: the model" in found[0]


def test_a_warning_says_that_a_folder_has_tables_only(module: ModuleType, tmp_path: Path) -> None:
    for name in ("one.csv", "two.TSV"):
        (tmp_path / name).write_text("a,b\n1,2\n" * 9000)
    options = module.Options(size="2x64", data=str(tmp_path), tokens=1000)
    [said] = module.remarks(options)
    assert said.startswith(f"{tmp_path} is no text corpus but 2 tables")
    assert f"evo-tune auto {tmp_path / 'one.csv'} --target" in said
    (tmp_path / "three.txt").write_text("a text\n" * 9000)
    assert module.remarks(options) == []


def test_a_warning_says_that_the_text_is_short(module: ModuleType, long: str, short: str) -> None:
    assert module.remarks(module.Options(size="2x64", data=long)) == []
    assert module.remarks(module.Options(size="large", seconds=60)) == []
    cheap = Cost({"step": 1e-3}).text()
    (told,) = module.remarks(module.Options(size="large", seconds=60, cost=cheap))
    assert "times" in told, "the cost says how much text the time takes"
    (told,) = module.remarks(module.Options(size="2x64x64x512", data=short, tokens=864_000))
    assert "reads the 21,600 bytes of text 40 times, and more than 4 times teaches little: give more text" in told


@pytest.mark.parametrize("documents", ["join", "mask"])
def test_a_trained_model_reads_documents_as_the_option_says(
    documents: str, places: dict[str, str], tmp_path: Path
) -> None:
    tiny = {"size": "1x32", "tokens": 1024, "eval_tokens": 256, "data": places["documents"]}
    bound = find_evaluator("language_model").bind({**tiny, "documents": documents})
    bound.export(bound.space.default(), Context(seed=1, folder=tmp_path / "trial"), tmp_path / "model")
    model, end = GPT.load(tmp_path / "model"), BOUNDARY[0]
    with torch.no_grad():
        one, other = (model(torch.tensor([[*first, end, *b"ab"]]))[0, -2:] for first in (b"cd", b"gh"))
    assert torch.allclose(one, other, atol=1e-6) == (documents == "mask")
