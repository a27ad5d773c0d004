"""A model's folder may be a stranger's: nothing in it is executed or followed, and each attack ends in one line."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import resource
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import evo_tune
from evo_tune.errors import EvoTuneError, UsageError
from tests.training.prediction.conftest import Export

pytestmark = pytest.mark.xdist_group("exported")

Copied = Callable[[str], Path]


class Bomb:
    """A pickle that makes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def edit(folder: Path, **entries: Any) -> None:
    """Change entries of config.json: those of its entry model by their names."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update({name: value for name, value in entries.items() if name in config})
    config["model"].update({name: value for name, value in entries.items() if name in config["model"]})
    path.write_text(json.dumps(config))


def forged(folder: Path, header: bytes | dict[str, Any] | None, data: bytes = b"", size: int | None = None) -> None:
    """Write other weights with their hash: a header, JSON or bytes, of which the file says another size if given.

    Without a header, the tensors stay.
    """
    path = folder / "model.safetensors"
    if header is not None:
        text = json.dumps(header).encode() if isinstance(header, dict) else header
        path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    config = json.loads((folder / "config.json").read_text())
    config["files"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "config.json").write_text(json.dumps(config))


def retyped(folder: Path, to: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Write the weights anew, each tensor changed, with their hash."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({name: to(tensor).contiguous() for name, tensor in load_file(path).items()}, path)
    forged(folder, None)


HUGE = {"x": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 2**64 - 1]}}

OUT = {"x": {"dtype": "F32", "shape": [4], "data_offsets": [2**40, 2**40 + 16]}}


def swapped(folder: Path, name: str, make: Callable[[Path], object]) -> None:
    (folder / name).unlink()
    make(folder / name)


def linked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


COLUMNS = ("numeric", "categorical", "dates")

ATTACKS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no config": ("classes", lambda at: (at / "config.json").unlink(), "has no config.json"),
    "no weights": ("classes", lambda at: (at / "model.safetensors").unlink(), "No such file"),
    "no tokenizer": ("byte pairs", lambda at: (at / "tokenizer.json").unlink(), "No such file"),
    "no notes": ("merged", lambda at: (at / "fine_tuning.json").write_text("[]"), "is no object"),
    "a linked config": ("classes", lambda at: linked(at / "config.json", "/etc/passwd"), "is a link"),
    "linked weights": ("classes", lambda at: linked(at / "model.safetensors", "/dev/zero"), "is a link"),
    "a link beside": ("classes", lambda at: (at / "more").symlink_to("/"), "is a link"),
    "a pipe": ("classes", lambda at: swapped(at, "config.json", os.mkfifo), "is no regular file"),
    "a folder for a file": ("classes", lambda at: swapped(at, "config.json", Path.mkdir), "no regular file"),
    "a hash of another place": ("prose", lambda at: edit(at, files={"../../x": "0"}), "no SHA-256 of model"),
    "altered weights": ("classes", lambda at: flip(at / "model.safetensors"), "was altered"),
    "altered tokens": ("byte pairs", lambda at: flip(at / "tokenizer.json"), "was altered"),
    "cut weights": ("classes", lambda at: os.truncate(at / "model.safetensors", 100), "was altered"),
    "an altered adapter": ("adapter", lambda at: flip(at / "adapter.safetensors"), "was altered"),
    "deep JSON": ("classes", lambda at: (at / "config.json").write_text("[" * 10**6), "RecursionError"),
    "an object of many values": (
        "classes",
        lambda at: (at / "config.json").write_text('{"x": [' + "{}," * (1 << 21) + "{}]}"),
        "values: expected at most",
    ),
    "huge JSON": ("classes", lambda at: os.truncate(at / "config.json", 10**9), "expected at most"),
    "no JSON": ("classes", lambda at: (at / "config.json").write_bytes(b"\xff\x00"), "config.json"),
    "another class": ("classes", lambda at: edit(at, **{"class": "os.system"}), "names the class 'os.system'"),
    "a wide model": ("classes", lambda at: edit(at, width=10**9), "where config.json has a model of"),
    "an endless model": ("prose", lambda at: edit(at, depth=10**12), "too few for 1000000000000 blocks"),
    "a number beyond all": ("prose", lambda at: edit(at, width=10**400), "."),
    "a long context": ("prose", lambda at: edit(at, context=10**11, position="rope"), "GiB of memory"),
    "weights full of holes": ("classes", lambda at: os.truncate(at / "model.safetensors", 1 << 36), "GiB of memory"),
    "many quantiles": ("numbers", lambda at: edit(at, quantiles=10**12), "where config.json has a model of"),
    "trees beyond the file": ("boosted classes", lambda at: edit(at, trees=10**12), "where config.json has a model of"),
    "endless trees": ("boosted classes", lambda at: edit(at, levels=10**9), "levels"),
    "a split by no column": (
        "boosted numbers",
        lambda at: retyped(at, lambda tensor: tensor + 99),
        "feature: a number that is not among the 5",
    ),
    "trees without columns": ("boosted numbers", lambda at: edit(at, columns=None), "."),
    "trees of text": ("boosted numbers", lambda at: edit(at, levels="deep"), "whole number"),
    "many knots": ("linear numbers", lambda at: edit(at, knots=10**4), "where config.json has a model of"),
    "categories of text": ("linear classes", lambda at: edit(at, categories="many"), "categories"),
    "terms beyond the file": ("linear texts", lambda at: edit(at, terms=10**12), "where config.json has a model of"),
    "terms of text": ("linear texts", lambda at: edit(at, terms="many"), "terms"),
    "endless n-grams": ("linear texts", lambda at: edit(at, character_ngrams=10**9), "character_ngrams"),
    "endless texts": ("linear texts", lambda at: edit(at, length=10**12), "length"),
    "terms without weights": ("linear texts", lambda at: edit(at, terms=1), "."),
    "many stages": ("convolved arrays", lambda at: edit(at, depth=5), "depth"),
    "a wide network": ("convolved arrays", lambda at: edit(at, width=10**9), "where config.json has a model of"),
    "images of text": ("convolved arrays", lambda at: edit(at, image_height="tall"), "image_height"),
    "another shape": ("classes", lambda at: edit(at, depth=1), "."),
    "fewer columns": (
        "classes",
        lambda at: edit(at, columns={"numeric": [], "categorical": {}, "dates": {}}),
        "columns",
    ),
    "columns of no kind": ("classes", lambda at: edit(at, columns=[1]), "."),
    "labels of no kind": ("classes", lambda at: edit(at, labels=7), "."),
    "a shape of text": ("classes", lambda at: edit(at, width="wide"), "."),
    "notes of no kind": ("classes", lambda at: edit(at, metrics=[1]), "export wrote"),
    "endless threads": ("classes", lambda at: edit(at, evaluated={"threads": 10**6}), "threads"),
    "no tensors": ("classes", lambda at: forged(at, {}), "."),
    "a header beyond the file": ("classes", lambda at: forged(at, b"{}", size=2**63), "."),
    "a header that is deep": ("classes", lambda at: forged(at, b'{"a":' * 10**5), "."),
    "a tensor beyond all": ("classes", lambda at: forged(at, HUGE), "."),
    "a tensor out of the file": ("classes", lambda at: forged(at, OUT, b"x" * 16), "."),
    "weights of another shape": ("classes", lambda at: retyped(at, lambda one: one[..., :1]), "."),
    "a scale of no kind": ("numbers", lambda at: edit(at, scale="ab"), "."),
}


def test_a_models_threads_are_at_most_those_of_the_machine(export: Export, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(export("classes").folder, folder)
    edit(folder, evaluated={"threads": 1024})
    assert evo_tune.load_model(folder).threads == os.cpu_count()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.fixture
def bounded() -> Any:
    """Limit the memory that this process may take in addition, so that an attack fails here and not on the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_damaged_folder_is_refused_in_one_line(name: str, copied: Copied, export: Export, bounded: None) -> None:
    kind, attack, told = ATTACKS[name]
    folder = copied(kind)
    attack(folder)
    with pytest.raises(EvoTuneError, match=told) as caught:
        evo_tune.load_model(folder, base=export(kind).bound.options["base"] if kind == "adapter" else None)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_a_pickle_is_never_opened(file: str, copied: Copied, tmp_path: Path) -> None:
    folder, mark = copied("prose"), tmp_path / "ran"
    torch.save({"model": Bomb(mark)}, folder / file)
    if file == "pytorch_model.bin":
        evo_tune.load_model(folder)
    else:
        with pytest.raises(EvoTuneError):
            evo_tune.load_model(folder)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists(), "the bomb works"


def test_weights_that_give_no_probabilities_are_named(copied: Copied) -> None:
    folder = copied("prose")
    with pytest.raises(EvoTuneError, match="temperature=1e-300 is not allowed"):
        evo_tune.load_model(folder).generate("The ", 5, temperature=1e-300)
    retyped(folder, lambda one: one * math.nan)
    with pytest.raises(EvoTuneError, match="a model whose logits are finite"):
        evo_tune.load_model(folder).generate("The ", 5)


def test_code_in_the_folder_is_not_executed(copied: Copied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mark = copied("classes"), tmp_path / "ran"
    for name in ("modeling.py", "__init__.py", "torch.py", "sitecustomize.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.chdir(folder)
    evo_tune.load_model(".")
    assert not mark.exists()


def test_an_adapter_reads_only_the_base_that_is_given(copied: Copied, tmp_path: Path) -> None:
    from evo_tune.training import GPT
    from evo_tune.training.recipe import GPTConfig

    folder = copied("adapter")
    with pytest.raises(EvoTuneError, match="give the folder of its base with --base"):
        evo_tune.load_model(folder)
    GPT(GPTConfig(context=64, depth=1, width=16, heads=2), seed=4).save(tmp_path / "other")
    with pytest.raises(EvoTuneError, match="is another base"):
        evo_tune.load_model(folder, base=tmp_path / "other")
    (folder / "base").symlink_to(tmp_path / "other")
    with pytest.raises(EvoTuneError, match="is a link"):
        evo_tune.load_model(folder)


def saved_text_model(folder: Path) -> Path:
    """Write a model of texts with a length of a million."""
    from evo_tune.training import TextClassifier
    from evo_tune.training.recipe import TextConfig

    shape = TextConfig(outputs=2, length=10**6, width=1, heads=1, depth=1, buckets=8)
    TextClassifier(shape).save(folder, genome={"lr": 1.0}, options={}, evaluated={"device": "cpu", "threads": 1})
    return folder


def test_texts_are_padded_to_the_longest_and_not_to_the_model(tmp_path: Path, bounded: None) -> None:
    """4,096 rows of a million numbers are 15 GiB."""
    model = evo_tune.load_model(saved_text_model(tmp_path / "model"))
    texts = tmp_path / "texts.csv"
    texts.write_text("text\n" + "a word\n" * 4096)
    assert sum(map(len, model.predictions(texts))) == 4096


def test_the_memory_of_an_input_is_predicted_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    model = evo_tune.load_model(saved_text_model(tmp_path / "model"), memory=2.0)
    monkeypatch.setattr("evo_tune.training.prediction.readers.encode_texts", lambda *_: pytest.fail("read"))
    with pytest.raises(UsageError, match=r"256 samples at once needs about .* GiB .* limit is 2 GiB: give --batch "):
        model.predict(["a " * 600_000, *["b"] * 255])
    with pytest.raises(UsageError, match=r"1 samples at once needs about .* GiB .*--memory 1 \(memory=\) allows it"):
        evo_tune.load_model(tmp_path / "model", memory=0.01, batch=1).predict(["a " * 600_000])


@pytest.mark.parametrize("given", [{}, {"memory": 0.5}])
def test_an_image_model_of_many_pixels_reads_no_picture(
    given: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    from evo_tune.training import ViT
    from evo_tune.training.prediction import memory
    from evo_tune.training.recipe import ViTConfig

    shape = ViTConfig(outputs=2, image_height=8192, image_width=8192, patch=1024, width=2, heads=1, depth=1)
    notes = {"inputs": {"dtype": "uint8", "low": 0, "high": 255}}
    ViT(shape).save(tmp_path / "model", genome={"lr": 1.0}, options={}, **notes)
    monkeypatch.setattr(memory, "free_memory", lambda device: 2.0**30)
    model = evo_tune.load_model(tmp_path / "model", **given)
    monkeypatch.setattr("evo_tune.training.prediction.readers.read_image", lambda *_: pytest.fail("read"))
    with pytest.raises(UsageError, match=r"predicting 1 samples at once needs about .* GiB of memory"):
        model.predict([tmp_path / "small.png"])


def test_tables_of_a_long_context_count_before_they_are_made(copied: Copied, bounded: None) -> None:
    """A GPT of some kilobytes had a table of 2^24 positions, 2.8 GB."""
    folder = copied("prose")
    edit(folder, context=1 << 24, position="rope", window=None)
    with pytest.raises(UsageError, match=r"MODEL .* needs about .* GiB of memory, and the limit is 1 GiB: --memory"):
        evo_tune.load_model(folder, memory=1.0)


def test_a_prompt_of_many_tokens_is_refused_before_it_is_read(copied: Copied) -> None:
    from evo_tune.training.prediction.memory import MemoryLimit

    model = evo_tune.load_model(copied("prose"))
    model.limit = MemoryLimit(gib=1e-4)
    with pytest.raises(UsageError, match=r"reading 64 tokens at once needs about .* GiB"):
        model.generate("The " * 99, 5)
    with pytest.raises(UsageError, match=r"reading 64 tokens at once needs about .* GiB"):
        model.evaluate(b"The " * 9999)


def peak_bytes(act: Callable[[], object]) -> int:
    """Return the growth of this process's memory while a function runs."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before, sizes, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            sizes.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    act()
    done.set()
    thread.join()
    return max(sizes) - before


@pytest.mark.parametrize(
    ("length", "width", "samples"),
    [(256, 64, 256), (4096, 64, 32), pytest.param(100_000, 16, 1, marks=pytest.mark.slow)],
)
def test_the_predicted_memory_is_an_upper_bound_and_near(length: int, width: int, samples: int) -> None:
    from evo_tune.training import TextClassifier, model_outputs
    from evo_tune.training.prediction.memory import InputSize, pass_bytes
    from evo_tune.training.recipe import TextConfig

    shape = TextConfig(outputs=3, length=length, width=width, heads=4, depth=2, buckets=100)
    inputs = torch.randint(0, 99, (samples, length), dtype=torch.int32)
    network = TextClassifier(shape).eval()
    measured = peak_bytes(lambda: model_outputs(network, (inputs, inputs), batch=samples))
    predicted = pass_bytes(shape, InputSize(samples, length), samples)
    assert measured < 1.2 * predicted
    assert predicted < 5 * measured
