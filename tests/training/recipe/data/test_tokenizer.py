"""Tokens of text: lossless for any bytes, the same wherever they are learned, and judged by the same bytes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, IGNORE, evaluation_blocks, evaluation_windows
from evo_tune.training.recipe import GPTConfig
from evo_tune.training.recipe.data.texts import read_text
from evo_tune.training.recipe.data.tokens import BPE, Bytes, tokenizer_for
from tests.extras import need

need("bpe")

TEXT = ("Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. いろはにほへと 1234, 567\n" * 60).encode()
LEARNED = BPE.learn(TEXT, 300)


@given(st.binary(max_size=300))
def test_any_bytes_come_back(text: bytes) -> None:
    for tokenizer in (Bytes(), LEARNED):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens.tolist()) == text
        assert len(tokens) <= len(text)
        assert not len(tokens) or tokens.max() < tokenizer.vocab_size


def test_the_first_tokens_are_the_bytes_and_merges_shorten_what_they_were_learned_from() -> None:
    assert [LEARNED.decode([token]) for token in range(256)] == [bytes([byte]) for byte in range(256)]
    assert len(LEARNED.encode(TEXT)) < 0.75 * len(TEXT)
    assert len(tokenizer_for(TEXT, 600).encode(TEXT)) < len(LEARNED.encode(TEXT))
    assert isinstance(tokenizer_for(TEXT, 256), Bytes)


def test_a_short_text_gives_fewer_merges_and_the_same_vocabulary() -> None:
    learned = BPE.learn(b"ab ab", 5000)
    assert learned.vocab_size == 5000
    assert learned.decode([256, 4999]) in (b"ab", b" ab")


def test_they_are_the_same_in_another_process_and_after_reading_back() -> None:
    code = (
        "import sys; from evo_tune.training.recipe.data.tokens import BPE; assert 'torch' not in sys.modules;"
        "sys.stdout.buffer.write(BPE.learn(sys.stdin.buffer.read(), 300).to_json().encode())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=TEXT, capture_output=True, check=True)
    assert done.stdout.decode() == LEARNED.to_json()
    again = BPE(LEARNED.to_json(), 300)
    assert np.array_equal(again.encode(TEXT), LEARNED.encode(TEXT))


def test_what_is_wrong_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (256, 100_000):
        with pytest.raises(RecipeError, match=f"vocab={size}"):
            BPE.learn(TEXT, size)
    with pytest.raises(RecipeError, match="tokenizer="):
        BPE("{}", 300)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RecipeError, match=r"pip install 'evo-tune\[bpe\]'"):
        BPE.learn(TEXT, 300)


@pytest.mark.parametrize("context", [16, 50])
@pytest.mark.parametrize("block", [64, 100, 10**6])
def test_every_tokenizer_is_judged_by_the_same_bytes(context: int, block: int) -> None:
    scored = []
    for tokenizer in (Bytes(), LEARNED):

        def encode(text: bytes, tokenizer: Bytes | BPE = tokenizer) -> torch.Tensor:
            return torch.from_numpy(tokenizer.encode(text).astype("int32"))

        blocks = evaluation_blocks(TEXT, encode, context=context, count=1000, block=block)
        scored.append([tokenizer.decode(targets[targets != IGNORE].tolist()) for _, targets in blocks])
        assert all(inputs.shape[1] == context for inputs, _ in blocks)
    assert scored[0] == scored[1]
    assert {len(text) for text in scored[0]} == {min(block, len(TEXT) - 1)}


@pytest.mark.parametrize("context", [16, 24])
def test_with_bytes_they_are_the_fixed_windows(context: int) -> None:
    tokens = torch.frombuffer(bytearray(TEXT), dtype=torch.uint8)
    expected = evaluation_windows(tokens, context=context, count=700, block=100)
    blocks = evaluation_blocks(TEXT, lambda text: torch.tensor(list(text)), context=context, count=700, block=100)
    for place in (0, 1):
        assert torch.equal(torch.cat([block[place] for block in blocks]), expected[place])


def test_a_model_keeps_its_tokenizer(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = GPT(GPTConfig(vocab_size=300, context=16, depth=1, width=16, heads=2))
    model.tokenizer = LEARNED
    model.save(tmp_path)
    tokenizer = GPT.load(tmp_path).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode(b"Viktor").tolist() == LEARNED.encode(b"Viktor").tolist()
    assert (tmp_path / "tokenizer.json").read_text().startswith("{")


def test_the_built_in_text_is_there() -> None:
    assert len(read_text("")) > 300_000
