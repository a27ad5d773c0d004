"""Parts of a GPT and of its training, each changed alone: the loss against a base recipe in equal time.

The base is a GPT of 4 blocks on bytes, with rotary positions, trained by Muon under `wsd` to zero. A variant changes
the options that its row in `VARIANTS` names. Its step is timed in turns with the base's, in CPU seconds on one thread,
and it trains for as many steps as take the time of the base's. All variants have the same seeds, text and batches, so
losses are compared in pairs. The row of the base with fewer steps tells how much loss a part's time is worth; the last
column subtracts that.

    python benchmarks/parts.py text.txt --rows rows.jsonl

The last tenth of the text is held out. A training in the file of rows is not repeated, so the command can be stopped
and run again, and a new row of `VARIANTS` adds only its own trainings.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from transfer_trainings import LOST, Rows

CONTEXT, DEPTH, HEAD = 128, 4, 32
"""Tokens per window, blocks, and channels per head."""

BASE: dict[str, Any] = {
    "lr": 0.01,
    "optimizer": "muon",
    "position": "rope",
    "schedule": "wsd",
    "min_lr_ratio": 0.0,
    "decay_fraction": 0.2,
    "lr_embedding": 1.0,
    "weight_decay": 0.1,
    "warmup": 0.05,
    "init": "fan_in",
    "norm": "layernorm",
    "ffn": "gelu",
    "tied": True,
    "qk_norm": False,
    "value_embeddings": False,
    "residual_scaling": False,
    "ngrams": 1,
    "softcap": 0.0,
    "z_loss": 0.0,
    "momentum_warmup": 0.0,
}
"""Genes and options of language_model; options that are not named have their defaults."""

SHORTER = "0.9 of the base's steps"
"""Variant that shows how much loss a part's time is worth."""

RATES = {"decay_fraction": 0.5, "lr_embedding": 3.0, "momentum_warmup": 0.3}
"""Rates that are better than the base's alone."""

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    SHORTER: {},
    "qk_norm": {"qk_norm": True},
    "rmsnorm": {"norm": "rmsnorm"},
    "relu2": {"ffn": "relu2"},
    "swiglu": {"ffn": "swiglu"},
    "softcap 15": {"softcap": 15.0},
    "softcap 30": {"softcap": 30.0},
    "value embeddings": {"value_embeddings": True},
    "residual scaling": {"residual_scaling": True},
    "n-grams of 2 and 3": {"ngrams": 3},
    "n-grams of 2 to 5": {"ngrams": 5},
    "n-grams of 2 to 5, 16,384 rows": {"ngrams": 5, "ngram_rows": 16384},
    "untied head": {"tied": False},
    "adamw, lr 0.004": {"optimizer": "adamw", "lr": 0.004},
    "learned positions": {"position": "learned"},
    "cosine to 0.1": {"schedule": "cosine", "min_lr_ratio": 0.1},
    "linear to 0": {"schedule": "linear"},
    "wsd, decay 0.5": {"decay_fraction": 0.5},
    "momentum warm-up 0.3": {"momentum_warmup": 0.3},
    "lr_embedding 0.3": {"lr_embedding": 0.3},
    "lr_embedding 3": {"lr_embedding": 3.0},
    "lr_vectors 0.3": {"lr_vectors": 0.3},
    "lr_vectors 3": {"lr_vectors": 3.0},
    "untied, lr_head 0.3": {"tied": False, "lr_head": 0.3},
    "z_loss 1e-4": {"z_loss": 1e-4},
    "init normal": {"init": "normal"},
    "lr 0.02": {"lr": 0.02},
    "all rates": RATES,
    "all rates, value embeddings": {**RATES, "value_embeddings": True},
    "all rates, three parts": {**RATES, "value_embeddings": True, "residual_scaling": True, "softcap": 30.0},
    "all rates, three parts, qk_norm": {
        **RATES,
        "value_embeddings": True,
        "residual_scaling": True,
        "softcap": 30.0,
        "qk_norm": True,
    },
    "wsd, decay 0.8": {"decay_fraction": 0.8},
}

SCORED = 2**16
"""Held-out tokens that are scored."""


class Job:
    """The text and the size of all trainings.

    Args:
        file: Any file; its bytes are the tokens.
        width: Width of the models, a multiple of `HEAD`.
        batch: Tokens per step.
    """

    def __init__(self, file: Path, width: int, batch: int) -> None:
        import torch

        data = file.read_bytes()
        self.digest = hashlib.sha256(data).hexdigest()[:16]
        tokens = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        split = len(tokens) * 9 // 10
        self.training, self.held_out = tokens[:split], tokens[split:]
        self.width, self.batch = width, batch


def trainer_of(job: Job, variant: str, steps: int, seed: int) -> Any:
    """Return the trainer of a variant.

    Args:
        job: Text and size.
        variant: A key of `VARIANTS`.
        steps: Steps of the training.
        seed: Seed of weights and batches.
    """
    from evo_tune.training import GPT, Trainer, TrainingWindows, fastest_precision, recipe_of
    from evo_tune.training.recipe import LanguageOptions

    given = {**BASE, **VARIANTS[variant]}
    genes = {name: given.pop(name) for name in ("lr", "weight_decay", "warmup")}
    options = LanguageOptions(**given, precision=fastest_precision())
    windows = job.batch // CONTEXT
    source = TrainingWindows(job.training, context=CONTEXT, batch=windows, total=steps * windows, seed=seed)
    size = {"vocab": 256, "context": CONTEXT, "depth": DEPTH, "width": job.width, "heads": job.width // HEAD}
    model = GPT(options.shape(**size, dropout=0.0), seed=seed)
    return Trainer(model, source, recipe_of(options, steps, batch=job.batch, reference=job.batch, **genes), seed=seed)


def loss_of(job: Job, variant: str, steps: int, seed: int) -> float:
    """Return the held-out loss of a training, in nats per byte; LOST if it diverged."""
    from evo_tune.training import Diverged, evaluate, evaluation_windows

    trainer = trainer_of(job, variant, steps, seed)
    try:
        trainer.run(steps)
    except Diverged:
        return LOST
    return evaluate(trainer.model, evaluation_windows(job.held_out, context=CONTEXT, count=SCORED)).loss


def time_ratio(job: Job, variant: str, rounds: int) -> float:
    """Return how many times as long a step takes as the base's: the median of alternating steps."""
    if VARIANTS[variant] == {}:
        return 1.0
    trainers = [trainer_of(job, name, rounds + 3, 0) for name in ("base", variant)]
    for trainer in trainers:
        trainer.run(3)

    def seconds(number: int) -> float:
        start = time.process_time()
        trainers[number].run(trainers[number].step + 1)
        return time.process_time() - start

    ratios = []
    for turn in range(rounds):
        first, second = (0, 1) if turn % 2 else (1, 0)
        took = {first: seconds(first), second: seconds(second)}
        ratios.append(took[1] / took[0])
    return statistics.median(ratios)


def table(losses: dict[str, list[float]], ratios: dict[str, float]) -> str:
    """Return the table of all variants; differences from the base are paired by seed.

    Args:
        losses: Variant to losses, by seed.
        ratios: Variant to the time of its step, as a multiple of the base's.
    """
    lines = ["| variant | time per step | loss | difference | difference per step |", "|---|---|---|---|---|"]
    worth = math.nan  # loss per unit of log steps
    for variant, found in losses.items():
        differences = [loss - other for loss, other in zip(found, losses["base"], strict=False)]
        error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
        mean = statistics.fmean(differences)
        if variant == SHORTER:
            worth = mean / -math.log(0.9)
        in_steps = mean - worth * math.log(ratios[variant])
        cells = [
            f"{ratios[variant]:.3f}",
            f"{statistics.fmean(found):.4f}",
            f"{mean:+.4f} ± {error:.4f}",
            f"{in_steps:+.4f}",
        ]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="file whose bytes are the text")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--width", type=int, default=64, help="width of the models")
    parser.add_argument("--batch", type=int, default=1024, help="tokens per step")
    parser.add_argument("--steps", type=int, default=500, help="steps of the base")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60, help="pairs of timed steps")
    parser.add_argument("--rows", type=Path, help="file of results, to which each training is added")
    given = parser.parse_args()
    torch.set_num_threads(1)
    from evo_tune.training import keep_freed_memory

    keep_freed_memory()
    job, rows = Job(given.text, given.width, given.batch), Rows(given.rows)
    names = list(dict.fromkeys(["base", SHORTER, *given.variants]))
    ratios: dict[str, float] = {}
    losses: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(given.seeds):
        for name in names:
            own = {**BASE, **VARIANTS[name], "width": job.width, "batch": job.batch}
            if name not in ratios:
                timing = {"ratio": own, "rounds": given.rounds}
                ratios[name] = rows.get(timing, lambda name=name: time_ratio(job, name, given.rounds))
            steps = round(given.steps / ratios[name] * (0.9 if name == SHORTER else 1.0))
            training = {"loss": own, "steps": steps, "seed": seed, "text": job.digest}
            loss = rows.get(training, lambda name=name, steps=steps, seed=seed: loss_of(job, name, steps, seed))
            losses[name].append(loss)
            print(f"{name}, seed {seed}, {steps} steps: {loss:.4f}", file=sys.stderr, flush=True)
    print(table(losses, ratios))


if __name__ == "__main__":
    main()
