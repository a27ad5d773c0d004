"""A tiny Hugging Face folder, made on the spot: what the tests of pre-trained models begin from."""

from __future__ import annotations

from pathlib import Path

import pytest

VOCABULARY = 270
CONTEXT = 64


def make_folder(folder: Path, kind: str = "llama") -> Path:
    """Write a model of random weights ('llama' or 'gpt2') and a byte-level tokenizer with a few merges."""
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, trainer)
    transformers.utils.logging.disable_progress_bar()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    shared = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
        config = transformers.GPT2Config(**shape, **shared)
    else:
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.LlamaConfig(
            **shape, num_key_value_heads=1, max_position_embeddings=CONTEXT, tie_word_embeddings=True, **shared
        )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
