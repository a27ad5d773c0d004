"""Hugging Face's Trainer: a tiny Llama, made on the spot, learns to count."""

from evo_tune import Choice, Context, Float, Minimize, SearchSpace

SPACE = SearchSpace(
    learning_rate=Float(1e-4, 3e-2, log=True, default=1e-3),
    per_device_train_batch_size=Choice([4, 8, 16], ordered=True, default=8),
    warmup_ratio=Float(0.0, 0.3, default=0.1),
    weight_decay=Float(0.0, 0.3),
)
OBJECTIVES = [Minimize("eval_loss")]
SUPPORTS = ["budget", "curve"]


def evaluate(genome: dict, context: Context, *, steps: int = 100) -> dict[str, float]:
    """Train for the budget and return the evaluation's metrics."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, set_seed

    from evo_tune.integrations.transformers import train, training_arguments

    set_seed(context.seed % 2**32)  # before the model is made
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, attention_dropout=0.1, **shape))
    rows = [[1 + (start + place) % 63 for place in range(16)] for start in range(63)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    often = {"eval_strategy": "steps", "eval_steps": max(1, steps // 5), "per_device_eval_batch_size": 32}
    arguments = training_arguments(context, genome, max_steps=steps, **often)
    return train(Trainer(model, arguments, train_dataset=data[::2], eval_dataset=data[1::2]), context)
