"""Train a GPT on bytes, continue from a checkpoint half-way, evaluate it, and save it."""

import math
from pathlib import Path
from pydoc_data.topics import topics

import torch

from evo_tune import training
from evo_tune.training.recipe import GPTConfig, Schedule, WeightDecay, flops_per_token

text = torch.frombuffer(bytearray("\n".join(topics.values()).encode()), dtype=torch.uint8)
seen, held_out = text[:-20000], text[-20000:]

config = GPTConfig(vocab_size=256, context=64, depth=2, width=32, heads=2, position="rope")
source = training.TrainingWindows(seen, context=64, batch=16, total=16 * 40, seed=1, micro_batch=8)
recipe = training.Recipe(
    optimizer=training.AdamW(lr=4e-3),
    schedule=Schedule(steps=source.steps, schedule="wsd"),
    weight_decay=WeightDecay(start=0.01, end=0.1),
)
with training.reproducible(threads=1):
    trainer = training.Trainer(training.GPT(config, seed=1), source, recipe, seed=1)
    watch = training.Throughput()
    trainer.run(source.steps // 2, on_step=lambda step: watch(step.targets))

    training.save_checkpoint(Path("half.pt"), trainer.state())
    trainer = training.Trainer(training.GPT(config, seed=1), source, recipe, seed=1)
    trainer.restore(training.load_checkpoint(Path("half.pt")))
    trainer.run(source.steps)

    windows = training.evaluation_windows(held_out, context=64, count=4096)
    judged = training.evaluate(trainer.model, windows)
print(f"{judged.loss:.3f} nats a byte, {judged.bits:.3f} bits; an untrained model has {math.log(256):.3f} nats")
print(f"{trainer.targets} tokens, {trainer.targets * flops_per_token(config):.2e} FLOPs")
print(f"{watch.tokens_per_second:.0f} tokens per second")
trainer.model.save("model")
