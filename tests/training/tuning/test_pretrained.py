"""Checkpoints' folders: what they say without torch, what they build, what is refused; and adapters on disk."""

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from logging import StreamHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evo_tune.errors import RecipeError
from evo_tune.training import (
    GPT,
    Adapters,
    LoRA,
    accumulate,
    add_adapter,
    encode,
    evaluate,
    load_adapter,
    load_pretrained,
    save_adapter,
    trainable_weights,
)
from evo_tune.training.evaluation import evaluate_by_position
from evo_tune.training.optim.losses import CrossEntropy
from evo_tune.training.recipe import TARGET_PRESETS, GPTConfig, NewWeights, flops_per_token
from evo_tune.training.recipe.data.tokens import BPE
from evo_tune.training.recipe.models.base import read_base
from evo_tune.training.tuning import pretrained
from evo_tune.training.tuning.pretrained import save_merged
from tests.hugging_face import CONTEXT, VOCABULARY, make_folder

TEXT = "the quick brown fox: größer 大".encode()
SHAPES = [
    GPTConfig(context=48, depth=2, width=16, heads=2),
    GPTConfig(context=48, depth=1, width=16, heads=4, kv_heads=2, window=8),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {f"gpt{n}": tmp_path_factory.mktemp("gpt") for n in range(len(SHAPES))}
    for n, shape in enumerate(SHAPES):
        GPT(shape, seed=1).save(made[f"gpt{n}"])
    pairs = GPT(GPTConfig(vocab_size=280, context=48, depth=1, width=16, heads=2), seed=1)
    pairs.tokenizer = BPE.learn(TEXT * 9, 280)
    made["pairs"] = tmp_path_factory.mktemp("pairs")
    pairs.save(made["pairs"])
    return made


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make_folder(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "gpt2")}


@pytest.fixture(params=["gpt0", "gpt1", "pairs", "llama", "gpt2"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    if request.param in folders:
        return folders[request.param]
    made: dict[str, Path] = request.getfixturevalue("hugging_face")
    return made[request.param]


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """Give every new weight another value, so that nothing is left at its beginning."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return model


@pytest.mark.parametrize("targets", [*TARGET_PRESETS, "*.0.*"])
def test_what_a_folder_says_is_what_its_model_is(folder: Path, targets: str) -> None:
    base = read_base(folder)
    model = load_pretrained(base)
    assert not model.training
    assert base.parameters == sum(p.numel() for p in model.parameters())
    chosen = base.targets(targets)
    assert 0 < len(chosen) <= len(base.linears)
    added = add_adapter(model, LoRA(rank=2, targets=chosen, dora=True))
    assert len(added) == len(chosen)
    expected = sum(2 * sum(base.linears[name]) + base.linears[name][1] for name in chosen)
    assert sum(weights.numel() for weights in trainable_weights(model).values()) == expected


def test_all_linear_is_every_layer_but_the_head(hugging_face: dict[str, Path], folders: dict[str, Path]) -> None:
    for folder in (*hugging_face.values(), *folders.values()):
        base = read_base(folder)
        model = load_pretrained(base)
        linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        heads = {name for name in linears if name.endswith("head")}
        assert len(linears - heads) == len(base.targets("all-linear"))
        assert all(any(name.endswith(target) for name in linears - heads) for target in base.targets("all-linear"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frozen_weight_costs_two_thirds_of_a_trained_one(shape: GPTConfig, tmp_path: Path) -> None:
    GPT(shape).save(tmp_path)
    frozen = read_base(tmp_path).flops_per_token(16, 0)
    assert frozen == flops_per_token(shape, 16) - 2 * shape.matmul_parameters
    assert read_base(tmp_path).flops_per_token(16, 100) == frozen + 600


def test_merged_and_saved_it_is_the_same_model_in_the_format_of_its_base(folder: Path, tmp_path: Path) -> None:
    base = read_base(folder)
    model, tokens = load_pretrained(base), encode(base, TEXT)[None].long()
    before = model(tokens)
    add_adapter(model, LoRA(rank=2, targets=base.targets("all-linear")))
    assert torch.equal(model(tokens), before)
    tuned = stirred(model)(tokens)
    assert not torch.allclose(tuned, before, atol=1e-2)
    save_merged(model, base, tmp_path, note="kept")
    again = read_base(tmp_path)
    assert again.shapes == base.shapes
    assert torch.allclose(load_pretrained(again)(tokens), tuned, rtol=0, atol=1e-5)
    assert torch.equal(encode(again, TEXT), encode(base, TEXT))
    assert torch.equal(load_pretrained(base)(tokens), before)  # the base is as it was
    assert again.sha256() != base.sha256()


@pytest.mark.parametrize("options", [LoRA(rank=2), LoRA(rank=2, dora=True), Adapters(bottleneck=3)])
def test_an_adapter_saved_and_read_is_the_same_to_the_bit(folder: Path, options: Any, tmp_path: Path) -> None:
    base = read_base(folder)
    targets = base.targets("branch-outputs" if isinstance(options, Adapters) else "qv")
    made = type(options)(**{**vars(options), "targets": targets})
    model, tokens = load_pretrained(base), encode(base, TEXT)[None].long()
    add_adapter(model, made)
    save_adapter(stirred(model), made, tmp_path, base=base.sha256())
    other = load_pretrained(base)
    assert load_adapter(other, tmp_path) == made
    assert torch.equal(other(tokens), model(tokens))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.extended
@pytest.mark.filterwarnings("ignore")  # peft calls functions that transformers will remove
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("targets", ["qv", "all-linear"])
def test_peft_loads_a_saved_low_rank_map(folder: Path, targets: str, dora: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = read_base(folder)
    options = LoRA(rank=2, alpha=3.0, dora=dora, targets=base.targets(targets))
    model, tokens = load_pretrained(base), encode(base, TEXT)[None].long()
    plain = model(tokens)
    add_adapter(model, options)
    save_adapter(stirred(model), options, tmp_path, base=str(folder))
    if base.gpt is not None:
        theirs: Any = peft.PeftModel.from_pretrained(load_pretrained(base), tmp_path)
        logits = theirs(tokens)
    else:
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path, torch_dtype=torch.float32)
        logits = theirs(input_ids=tokens).logits
    assert torch.allclose(logits, model(tokens), rtol=0, atol=1e-5)
    assert not torch.allclose(logits, plain, rtol=0, atol=1e-3)
    names = {name.replace(".default", "") for name, _ in theirs.named_parameters() if "lora_" in name}
    assert {name.removesuffix(".weight") for name in names} == {
        name.removesuffix(".weight") for name in load_file(tmp_path / "adapter_model.safetensors")
    }


def test_a_low_rank_map_of_version_1_0_0_is_read(folder: Path, tmp_path: Path) -> None:
    base = read_base(folder)
    options = LoRA(rank=2, dora=True, targets=base.targets("qv"))
    model, tokens = load_pretrained(base), encode(base, TEXT)[None].long()
    add_adapter(model, options)
    save_file(trainable_weights(stirred(model)), tmp_path / "adapter.safetensors")
    files = {"adapter.safetensors": hashlib.sha256((tmp_path / "adapter.safetensors").read_bytes()).hexdigest()}
    about = {"method": "LoRA", "options": vars(options), "base": "", "files": files}
    (tmp_path / "adapter.json").write_text(json.dumps(about))
    other = load_pretrained(base)
    assert load_adapter(other, tmp_path) == options
    assert torch.equal(other(tokens), model(tokens))


@pytest.mark.parametrize(
    ("options", "new"),
    [
        (LoRA(rank=2), {"rank": 2}),
        (LoRA(rank=2, dora=True), {"rank": 2, "dora": True}),
        (Adapters(bottleneck=3), {"bottleneck": 3}),
    ],
)
def test_added_weights_are_counted_before_they_are_made(folder: Path, options: Any, new: dict[str, Any]) -> None:
    base = read_base(folder)
    targets = base.targets("branch-outputs" if isinstance(options, Adapters) else "qv")
    model = load_pretrained(base)
    add_adapter(model, type(options)(**{**vars(options), "targets": targets}))
    added = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert NewWeights(layers=targets, **new).count(base) == added


def test_an_adapter_for_another_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    model = load_pretrained(read_base(folders["gpt0"]))
    options = LoRA(rank=2, targets=("qkv",))
    add_adapter(model, options)
    save_adapter(model, options, tmp_path)
    with pytest.raises(RecipeError, match=r"these weights differ: blocks\.0\.attention\.qkv"):
        load_adapter(GPT(GPTConfig(depth=2, width=32, heads=2)), tmp_path)
    (tmp_path / "adapter.json").unlink()
    with pytest.raises(RecipeError, match=r"with a readable adapter\.json"):
        load_adapter(model, tmp_path)


def test_tokens_are_bytes_or_the_tokenizers(
    folders: dict[str, Path], hugging_face: dict[str, Path], tmp_path: Path
) -> None:
    assert encode(read_base(folders["gpt0"]), TEXT).tolist() == list(TEXT)
    assert len(encode(read_base(folders["pairs"]), TEXT)) < len(TEXT) / 2
    (without := tmp_path / "without").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folders["pairs"] / name, without)
    with pytest.raises(RecipeError, match=r"tokenizer\.json for its 280 tokens"):
        encode(read_base(without), TEXT)
    tokens = encode(read_base(hugging_face["llama"]), TEXT)
    assert tokens.dtype == torch.int64
    assert 0 < len(tokens) < len(TEXT)
    assert int(tokens.max()) < VOCABULARY
    base = read_base(hugging_face["gpt2"])
    assert (base.context, base.width, base.vocab_size) == (CONTEXT, 32, VOCABULARY)


def test_a_target_that_fits_nothing_is_told_what_there_is(folder: Path) -> None:
    base = read_base(folder)
    for targets in ("nothing", "nothing,*", " , "):
        with pytest.raises(RecipeError) as caught:
            base.targets(targets)
        assert all(name in str(caught.value) for name in base.linears)


def test_a_folder_is_read_without_torch(folders: dict[str, Path]) -> None:
    code = "import sys; from evo_tune.training.recipe.models.base import read_base; read_base(sys.argv[1]).sha256(); "
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(folders["gpt0"])], check=True)


def broken(folder: Path, tmp_path: Path, name: str, content: bytes | None) -> Path:
    """Return a copy of a folder with one file written anew, or gone."""
    copy = tmp_path / "broken"
    shutil.copytree(folder, copy)
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"with config\.json in it"),
        ("config.json", b"{", r"a config\.json that can be read"),
        ("config.json", b"[]", "that holds an object"),
        ("config.json", b"{}", "model_type"),
        ("config.json", json.dumps({"model": {**SHAPES[0].to_json(), "width": 32}}).encode(), "weights, as its config"),
        ("config.json", json.dumps({"model": {"depht": 2}}).encode(), "depht"),
        ("config.json", b'{"model_type": "llama", "vocab_size": 9, "hidden_size": 16}', r"tensor of shape \(9, 16\)"),
        ("config.json", b'{"model_type": "llama", "vocab_size": 9}', "hidden_size or n_embd"),
        ("config.json", b'{"model_type": "llama", "vocab_size": 9, "hidden_size": -1}', "at least 1"),
        ("config.json", b'{"_attn_implementation": "stranger/kernel"}', "_attn_implementation is eager or sdpa, not"),
        ("config.json", b'{"a": [{"experts_implementation_internal": "x\\u001b[2J"}]}', r"not 'x\\x1b\[2J'"),
        ("model.safetensors", None, r"with model\.safetensors in it"),
        ("model.safetensors", b"", "header too small"),
        ("model.safetensors", b"\xff" * 80, "header too large"),
        ("model.safetensors", b"\x02" + bytes(7) + b"[]", "that can be read"),
        ("model.safetensors", b"\x02" + bytes(7) + b"{}", "weights, as its config"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    folders: dict[str, Path], tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    copy = broken(folders["gpt0"], tmp_path, name, content)
    with pytest.raises(RecipeError, match=message) as caught:
        read_base(copy)
    assert str(copy) in str(caught.value) or "depht" in message
    assert "\n" not in str(caught.value)


def test_no_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        with pytest.raises(RecipeError, match=r"a folder with config\.json"):
            read_base(tmp_path / name)


def test_pickled_weights_are_never_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = broken(folders["gpt0"], tmp_path, "model.safetensors", None)
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(RecipeError, match=r"model\.safetensors, not only pytorch_model\.bin: pickles can run code"):
        read_base(copy)
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    with pytest.raises(RecipeError, match=r"names of \.safetensors files"):
        read_base(copy)
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    with pytest.raises(RecipeError, match=r"names of \.safetensors files"):
        read_base(copy)


def test_weights_in_several_files_are_one_model(hugging_face: dict[str, Path], tmp_path: Path) -> None:
    import transformers

    base = read_base(hugging_face["llama"])
    whole = transformers.AutoModelForCausalLM.from_pretrained(base.folder, local_files_only=True)
    whole.save_pretrained(tmp_path, max_shard_size="40KB")
    shutil.copy(base.folder / "tokenizer.json", tmp_path)
    shutil.copy(base.folder / "tokenizer_config.json", tmp_path)
    sharded = read_base(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert sharded.shapes == base.shapes
    tokens = encode(sharded, TEXT)[None].long()
    assert torch.equal(load_pretrained(sharded)(tokens), load_pretrained(base)(tokens))


def changed(hugging_face: dict[str, Path], tmp_path: Path, **config: object) -> Path:
    copy = tmp_path / "changed"
    shutil.copytree(hugging_face["llama"], copy)
    old = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**old, **config}))
    return copy


def test_nothing_is_fetched_and_no_code_of_the_folder_runs(
    hugging_face: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    copy = changed(hugging_face, tmp_path, model_type="unheard-of", auto_map={"AutoModelForCausalLM": "code.Model"})
    (copy / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    with pytest.raises(RecipeError, match="a causal language model"):
        load_pretrained(read_base(copy))
    remote = changed(hugging_face, tmp_path / "b", auto_map={"AutoModelForCausalLM": "someone/model--code.Model"})
    load_pretrained(read_base(remote))  # known: built by transformers' own code
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [({"intermediate_size": 64}, "causal language model"), ({"num_hidden_layers": 3}, r"layers\.2.*are not there")],
)
def test_weights_of_another_shape_are_refused(
    hugging_face: dict[str, Path], tmp_path: Path, config: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_pretrained(read_base(changed(hugging_face, tmp_path, **config)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_key_value_heads": 10**6}, "whose model has the"),
        ({"intermediate_size": 10**9}, "whose model has the"),
        ({"num_hidden_layers": 20_000}, r"with 1 to \d+ in num_hidden_layers"),
        ({"num_hidden_layers": -1}, r"with 1 to \d+ in num_hidden_layers"),
    ],
)
def test_a_config_beyond_its_weights_is_refused_before_memory_is_taken(
    hugging_face: dict[str, Path],
    tmp_path: Path,
    config: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transformers

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(RecipeError, match=message):
        load_pretrained(read_base(changed(hugging_face, tmp_path, **config)))


def test_no_tokenizer_and_one_of_another_model_are_refused(hugging_face: dict[str, Path], tmp_path: Path) -> None:
    copy = changed(hugging_face, tmp_path)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    last = max(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    tokenizer["model"]["vocab"][last] = VOCABULARY + 5
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RecipeError, match="a tokenizer of 270 tokens"):
        encode(read_base(copy), last.replace("Ġ", " ").encode() * 9)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(RecipeError, match="a folder with a tokenizer"):
        encode(read_base(copy), TEXT)


def test_the_loss_of_a_fresh_model_is_that_of_knowing_nothing(hugging_face: dict[str, Path]) -> None:
    base = read_base(hugging_face["gpt2"])
    tokens = encode(base, TEXT)
    logits = load_pretrained(base)(tokens[None, :-1])[0]
    loss = torch.nn.functional.cross_entropy(logits.detach(), tokens[1:])
    assert float(loss) == pytest.approx(math.log(VOCABULARY), abs=0.3)


def test_a_base_drops_nothing_by_itself_and_keeps_its_config(hugging_face: dict[str, Path], tmp_path: Path) -> None:
    base = read_base(hugging_face["gpt2"])
    model = load_pretrained(base).train()
    tokens = torch.arange(12)[None]
    assert torch.equal(model(tokens), model(tokens))
    save_merged(model, base, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["resid_pdrop"] == 0.1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_base_of_many_words_is_tuned_and_judged_in_pieces(
    kind: str, hugging_face: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, rng = read_base(hugging_face[kind]), torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (3, 17), generator=rng)
    window = (tokens[:, :-1], tokens[:, 1:])
    found = []
    for least in (1024, 100):
        monkeypatch.setattr(pretrained, "LARGE_VOCABULARY", least)
        model = load_pretrained(base)
        assert model.in_pieces == (least < VOCABULARY)
        add_adapter(model, LoRA(rank=2, dropout=0.0, targets=base.targets("all-linear")), seed=1)
        stirred(model)
        places = [place.nll for place in evaluate_by_position(model, window)]
        loss, _ = accumulate(model.train(), [window], loss=CrossEntropy())
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((gradient, torch.tensor([float(loss), evaluate(model, window).loss, *places])))
    for whole, pieces in zip(*found, strict=True):
        assert float((pieces - whole).norm() / whole.norm()) < 1e-5


def test_logits_that_are_changed_after_the_head_stay_whole(
    hugging_face: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "LARGE_VOCABULARY", 100)
    model = load_pretrained(read_base(hugging_face["llama"]))
    head = model.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, logits: 30.0 * torch.tanh(logits / 30.0) + 1.0)
    assert not pretrained.CausalLM(model.model).in_pieces
    handle.remove()
    assert pretrained.CausalLM(model.model).in_pieces


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_base_whose_files_have_no_end_is_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, kind: str
) -> None:
    shutil.copytree(folders["gpt0"], tmp_path / "base")
    path = tmp_path / "base" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    with pytest.raises(RecipeError, match=f"expected a {name} that is a regular file"):
        read_base(tmp_path / "base")


def test_strings_of_a_strangers_config_reach_no_terminal(hugging_face: dict[str, Path], tmp_path: Path) -> None:
    """transformers warns of a factor of the rotary positions with the text of the config."""
    from transformers.utils import logging

    stream, verbosity = io.StringIO(), logging.get_verbosity()
    handler = StreamHandler(stream)
    logging.add_handler(handler)
    changes: list[dict[str, Any]] = [
        {"rope_scaling": {"rope_type": "linear", "factor": "\x1b[2J"}},
        {"model_type": "\x1b]0;x\x07"},
        {"num_key_value_heads": "\x1b[2J"},
    ]
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        shutil.copytree(hugging_face["llama"], folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with contextlib.suppress(RecipeError):
            load_pretrained(read_base(folder))
    logging.remove_handler(handler)
    assert stream.getvalue() == ""
    assert logging.get_verbosity() == verbosity
