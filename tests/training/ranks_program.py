"""What `test_distributed` runs under torchrun: one start of the ranks, many questions.

Each function is a question; rank 0 gathers all ranks' answers and saves them. `small_training` and `ragged` are
what the test repeats in one process.
"""

import copy
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from evo_tune.training import (
    GPT,
    IGNORE,
    SGD,
    Diverged,
    Muon,
    Precision,
    Ranks,
    RanksDiffer,
    Recipe,
    Trainer,
    accumulate,
    evaluate,
    process_group,
)
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.optim.optimizer import orthogonalise
from evo_tune.training.recipe import GPTConfig, Schedule, WeightDecay

STEPS = 4
LENGTHS = [[12, 3, 7, 1, 9], [5, 12], [2], [11, 4, 4, 8, 1, 12]]
"""Lengths of each step's samples, one a micro-batch: uneven over two ranks, and once fewer than ranks."""


class Ragged:
    """Micro-batches of one sample, each of its own length; a step of one has a sample for one rank only."""

    def window(self, step: int) -> list[MicroBatch]:
        rng = torch.Generator().manual_seed(step)
        samples = [torch.randint(0, 16, (1, length + 1), generator=rng) for length in LENGTHS[step]]
        return [(sample[:, :-1], sample[:, 1:]) for sample in samples]


def trainer_of(
    ranks: Ranks | None, *, double: bool = False, dropout: float = 0.0, steps: int = STEPS, **recipe: Any
) -> Trainer:
    seed = 5 if ranks is None or ranks.rank == 0 else 6  # all are to begin as rank 0 does
    model = GPT(GPTConfig(vocab_size=16, context=12, depth=2, width=16, heads=2, dropout=dropout), seed=seed)
    made = Recipe(optimizer=SGD(lr=0.3), schedule=Schedule(steps=steps), weight_decay=WeightDecay(start=0.1), **recipe)
    return Trainer(model.double() if double else model, Ragged(), made, seed=3, ranks=ranks)


def small_training(ranks: Ranks | None) -> dict[str, Any]:
    """The losses, norms and weights of a training, in float32 and float64, and of one step's gradient."""
    answers: dict[str, Any] = {}
    for name, double in (("fp32", False), ("fp64", True)):
        trainer = trainer_of(ranks, double=double)
        log: list[tuple[float, float, int]] = []
        trainer.run(STEPS, lambda step, log=log: log.append((step.loss, step.norm, step.targets)))  # type: ignore[misc]
        weights = torch.cat([p.detach().flatten() for p in trainer.parameters])
        trainer = trainer_of(ranks, double=double)
        trainer._gradient()
        gradient = torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None])
        answers[name] = {"log": log, "weights": weights, "gradient": gradient}
    return answers


def held_out() -> MicroBatch:
    """Seven windows, which two ranks cannot share evenly; the last one is much the easiest."""
    rng = torch.Generator().manual_seed(9)
    rows = torch.randint(0, 16, (7, 13), generator=rng)
    rows[-1] = rows[0, 0]
    inputs, targets = rows[:, :-1].clone(), rows[:, 1:].clone()
    targets[2, 4:] = IGNORE
    return inputs, targets


def score(ranks: Ranks | None) -> tuple[float, int]:
    result = evaluate(trainer_of(None).model, held_out(), batch=2, ranks=ranks)
    return result.nll, result.count


def padded_score(ranks: Ranks) -> tuple[float, int]:
    """As is often done: torch's sampler, the shares' sums added up."""
    inputs, targets = held_out()
    sampler = DistributedSampler(list(range(len(inputs))), ranks.size, ranks.rank, shuffle=False)
    mine = list(sampler)
    result = evaluate(trainer_of(None).model, (inputs[mine], targets[mine]))
    total = ranks.sum(torch.tensor([result.nll, result.count], dtype=torch.float64))
    return float(total[0]), int(total[1])


def reductions(ranks: Ranks) -> dict[str, Any]:
    """How often each bucket of gradients is sent in a window, our way and with forward outside of no_sync."""
    trainer = trainer_of(ranks)
    sent: list[int] = []

    def hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent.append(bucket.index())
        work = dist.all_reduce(bucket.buffer().div_(ranks.size), async_op=True)
        assert work is not None
        return work.get_future().then(lambda future: future.value()[0])

    trainer.replica.register_comm_hook(None, hook)  # type: ignore[operator]
    window = ranks.share(trainer.source.window(3))
    ours = []
    for _ in range(2):  # the first pass may settle the buckets anew
        sent.clear()
        accumulate(trainer.replica, window, ranks=ranks)
        ours.append(sorted(sent))
    sent.clear()
    for number, (inputs, _) in enumerate(window):
        logits = trainer.replica(inputs)
        with trainer.replica.no_sync() if number < len(window) - 1 else nullcontext():  # type: ignore[operator]
            logits.sum().backward()
    return {"ours": ours, "backward_only": sorted(sent), "micro_batches": len(window)}


def one_rank_is_not_finite(ranks: Ranks) -> dict[str, Any]:
    """A NaN in the loss of rank 1 alone, in fp32; a gradient that overflows on rank 1 alone, in fp16."""
    trainer = trainer_of(ranks)
    trainer.run(1)
    before = [p.detach().clone() for p in trainer.parameters]
    poison = trainer.model.register_forward_hook(  # type: ignore[assignment]
        lambda module, args, logits: logits * (torch.nan if ranks.rank else 1.0)
    )
    try:
        trainer.run(2)
        reason = "none"
    except Diverged as error:
        reason = str(error)
    poison.remove()
    kept = all(torch.equal(was, p) for was, p in zip(before, trainer.parameters, strict=True))
    scaled = trainer_of(ranks, precision=Precision(name="fp16", initial_scale=1024.0))

    def overflow(grad: torch.Tensor) -> torch.Tensor:
        assert scaled.scaler is not None
        return grad * (torch.inf if ranks.rank and scaled.scaler.get_scale() > 256 else 1.0)

    scaled.model.norm.weight.register_hook(overflow)  # type: ignore[union-attr,operator]
    scaled.run(2)
    assert scaled.scaler is not None
    compare = _differing(ranks, scaled.model)
    return {
        "reason": reason,
        "kept": kept,
        "scale": scaled.scaler.get_scale(),
        "overflows": scaled.overflows,
        "same": not compare,
    }


def _differing(ranks: Ranks, model: torch.nn.Module) -> list[int]:
    try:
        ranks.compare(model, 7)
    except RanksDiffer as error:
        return list(error.ranks)
    return []


def one_bit(ranks: Ranks) -> dict[str, Any]:
    """Weights are compared: equal, then with the last bit of one changed on rank 1, and while training."""
    model = trainer_of(ranks).model
    equal = _differing(ranks, model)
    if ranks.rank == 1:
        with torch.no_grad():
            model.norm.weight[3] = torch.nextafter(model.norm.weight[3], torch.tensor(9.0))  # type: ignore[union-attr,index]
    trainer = trainer_of(Ranks(ranks.rank, ranks.size, ranks.device, check_every=2))
    trainer.run(1)
    if ranks.rank == 1:
        with torch.no_grad():
            trainer.parameters[0].mul_(1.01)
    try:
        trainer.run(4)
        message = "none"
    except RanksDiffer as error:
        message = str(error)
    return {"equal": equal, "changed": _differing(ranks, model), "message": message}


def noise(ranks: Ranks) -> dict[str, Any]:
    """Dropout differs between ranks' samples, while weights do not; a resumed training goes on to the bit."""
    masks: list[torch.Tensor] = []
    straight = trainer_of(ranks, dropout=0.3)
    straight.model.dropout.register_forward_hook(  # type: ignore[union-attr,operator]
        lambda module, args, out: masks.append((out == 0)[0, 0].clone())
    )
    straight.run(2)
    saved = copy.deepcopy(straight.state())
    straight.run(STEPS)
    resumed = trainer_of(ranks, dropout=0.3)
    resumed.restore(saved)
    resumed.run(STEPS)
    pairs = zip(straight.parameters, resumed.parameters, strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    return {"mask": masks[0], "resumed": same, "weights": dropping_training(ranks)}


def dropping_training(ranks: Ranks | None) -> torch.Tensor:
    """The weights after a training with dropout, in float64."""
    trainer = trainer_of(ranks, double=True, dropout=0.3)
    trainer.run(STEPS)
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


def statistics(ranks: Ranks) -> dict[str, Any]:
    """Batch norms on a CPU: not converted, their statistics rank 0's after each step."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    recipe = Recipe(optimizer=SGD(lr=0.1), schedule=Schedule(steps=2), weight_decay=WeightDecay(start=0.0))
    rng = torch.Generator().manual_seed(1)
    rows, classes = torch.randn(8, 4, generator=rng), torch.randint(0, 3, (8,), generator=rng)

    class Rows:
        def window(self, step: int) -> list[MicroBatch]:
            return [(rows, classes)]

    trainer = Trainer(model, Rows(), recipe, ranks=ranks)
    trainer.run(2)
    kinds = [type(module).__name__ for module in trainer.model]  # type: ignore[union-attr]
    return {"differing": _differing(ranks, trainer.model), "kinds": kinds}


def least(ranks: Ranks) -> list[int]:
    """What the rank with the least memory has room for."""
    return ranks.least(8 - 3 * ranks.rank, ranks.rank)


def shared_muon(ranks: Ranks) -> dict[str, Any]:
    """The weights after steps of Muon with and without shared work, and how many matrices this rank orthogonalised."""
    counts: list[int] = []

    def counted(matrices: torch.Tensor, precision: str) -> torch.Tensor:
        counts.append(len(matrices))
        return orthogonalise(matrices, precision)

    layers: list[torch.nn.Module] = [torch.nn.Linear(128, 160) for _ in range(3)]
    layers += [torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(256, 128)]
    models = [torch.nn.Sequential(*layers), copy.deepcopy(torch.nn.Sequential(*layers))]
    shared_counts = []
    for model, group in zip(models, (None, ranks), strict=True):
        seed = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn(weight.shape, generator=seed))
        optimizer = Muon(lr=0.1).build(model, "fp32", group)
        with patch("evo_tune.training.optim.optimizer.orthogonalise", counted):
            for _ in range(2):
                for weight in model.parameters():
                    weight.grad = torch.randn(weight.shape, generator=seed)
                counts.clear()
                optimizer.step()
        shared_counts.append(list(counts))
    alone, shared = ([weight.detach() for weight in model.parameters()] for model in models)
    return {"counts": shared_counts, "alone": alone, "shared": shared}


QUESTIONS: dict[str, Callable[[Ranks], Any]] = {
    "training": small_training,
    "score": score,
    "padded": padded_score,
    "reductions": reductions,
    "not_finite": one_rank_is_not_finite,
    "one_bit": one_bit,
    "noise": noise,
    "statistics": statistics,
    "least": least,
    "shared_muon": shared_muon,
}


def main() -> None:
    torch.set_num_threads(1)
    with process_group("cpu", timeout=60.0) as ranks:
        answers = {name: ask(ranks) for name, ask in QUESTIONS.items()}
        gathered: list[Any] = [None] * ranks.size
        dist.all_gather_object(gathered, answers)
        if ranks.rank == 0:
            torch.save(gathered, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
