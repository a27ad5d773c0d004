"""How fast the trainer is, and whether what it saves costs quality.

Tokens per second of `evo_tune.training.Trainer` as language_model uses it (on a processor that gains from it,
in bfloat16) and of the plain loop, as nanoGPT has it: the same model in eager float32, torch.optim.AdamW at its
defaults, F.cross_entropy, clip_grad_norm_, the cosine by hand. Both train in processes of their own, by turns,
so that they share the machine's good and bad minutes but not an allocator's settings.

    python benchmarks/trainer.py                 tokens per second, on one thread and on two
    python benchmarks/trainer.py --parts         which part gives how much
    python benchmarks/trainer.py --quality 30    30 random genomes trained both ways, and the noise of seeds
    python benchmarks/trainer.py --compile       what torch.compile costs, and what it gains
    python benchmarks/trainer.py --profile       where the time of the plain loop and of ours goes, by torch's profiler
    python benchmarks/trainer.py --device cuda   the plain loop in bf16 autocast, and MFU

On a machine that others use, --clock cpu counts the process's own seconds of CPU in place of the wall's; only on
one thread, since threads that wait for each other spin.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CONTEXT, DEPTH, HEADS = 128, 4, 4
STEPS = 10_000  # of a schedule that none of the timings comes to the end of
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}  # dense bf16, from the makers' sheets
PARTS = {
    "plain": "the plain loop",
    "fused": "+ fused AdamW, one norm, no copies of data",
    "memory": "+ freed memory is kept",
    "autocast": "+ products in bf16",
    "trainer": "+ attention by plain products: this trainer",
}


# ---------------------------------------------------------------- what is timed


def text() -> Any:
    """Return the text that language_model trains on by default, as bytes (465 kB)."""
    from pydoc_data.topics import topics

    import torch

    joined = "\n".join(topics[name] for name in sorted(topics)).encode()
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8)


def shape(width: int) -> Any:
    from evo_tune.training.recipe import GPTConfig

    return GPTConfig(context=CONTEXT, depth=DEPTH, width=width, heads=HEADS, init="fan_in")


def plain_step(width: int, tokens: int, device: str, compiled: bool = False) -> Callable[[], float]:
    """Return a function that does one step as nanoGPT's train.py does, and gives its loss."""
    import torch
    import torch.nn.functional as F

    from evo_tune.training import GPT

    data = text().numpy()
    low = torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu")
    model = GPT(shape(width), seed=0).to(device).train()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=device != "cpu" or None)
    forward = torch.compile(model) if compiled else model
    step = 0

    def once() -> float:
        nonlocal step
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (0.1 + 0.45 * (1.0 + math.cos(math.pi * step / STEPS)))
        starts = torch.randint(len(data) - CONTEXT, (tokens // CONTEXT,)).tolist()
        x = torch.stack([torch.from_numpy(data[i : i + CONTEXT].astype("int64")) for i in starts]).to(device)
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + CONTEXT].astype("int64")) for i in starts]).to(device)
        with low:
            logits = forward(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        return loss.item()

    return once


def trainer_step(width: int, tokens: int, device: str, precision: str, compiled: bool = False) -> Callable[[], float]:
    """Return a function that does one step of `Trainer`, and gives its loss."""
    import torch

    from evo_tune import training
    from evo_tune.training import recipe

    source = training.TrainingWindows(
        text(), context=CONTEXT, batch=tokens // CONTEXT, total=STEPS * tokens // CONTEXT, seed=0
    )
    recipe = training.Recipe(
        optimizer=training.AdamW(lr=1e-3),
        schedule=recipe.Schedule(steps=STEPS, warmup_fraction=0.0),
        weight_decay=recipe.WeightDecay(start=0.1),
        precision=training.Precision(name=precision),
    )
    model = training.GPT(shape(width), seed=0).to(device).train()
    trainer = training.Trainer(model, source, recipe, device=device)
    if compiled:
        trainer.model = torch.compile(model)  # type: ignore[assignment]
    return lambda: trainer.train_step().loss


def prepared(what: str, width: int, tokens: int, device: str, precision: str | None) -> Callable[[], float]:
    """Return the step of one row of PARTS, or of one of the others."""
    from evo_tune.training import fastest_precision, keep_freed_memory
    from evo_tune.training.models import block as attention

    compiled = what.endswith("compiled")
    if not what.startswith("trainer"):  # torch's attention as it is
        attention.uses_plain_products = lambda precision, keys: False
    if what.startswith("plain"):
        return plain_step(width, tokens, device, compiled)
    if what != "fused":
        keep_freed_memory()
    own = {"fused": "fp32", "memory": "fp32", "autocast": "bf16"}.get(what) or precision or fastest_precision(device)
    return trainer_step(width, tokens, device, own, compiled)


def serve(what: str, width: int, tokens: int, threads: int, given: argparse.Namespace) -> None:
    """Time steps for the process at the other end of standard input: so many, for each line that comes."""
    import torch

    now = time.process_time if given.clock == "cpu" else time.perf_counter
    torch.set_num_threads(threads)
    before = time.perf_counter()
    once = prepared(what, width, tokens, given.device, given.precision)
    for _ in range(3):
        once()
    print(time.perf_counter() - before, flush=True)
    for line in sys.stdin:
        start = now()
        for _ in range(int(line)):
            once()  # it waits for the device, to give a number
        print((now() - start) / int(line), flush=True)


class Runner:
    """A process that trains, and times itself when it is asked to."""

    def __init__(self, what: str, width: int, tokens: int, threads: int, given: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", what, "--widths", str(width), "--tokens", str(tokens)]
        command += ["--threads", str(threads), "--device", given.device, "--clock", given.clock]
        command += ["--precision", given.precision] if given.precision else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start = self._read()

    def seconds(self, steps: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> float:
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def by_turns(names: list[str], width: int, tokens: int, threads: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return, for each name, its median seconds a step, the median ratio to the first name's, and its start's."""
    runners = {name: Runner(name, width, tokens, threads, given) for name in names}
    one = runners[names[0]].seconds(1)
    steps = max(1, round(given.seconds / one))
    rounds = [{name: runner.seconds(steps) for name, runner in runners.items()} for _ in range(given.rounds)]
    for runner in runners.values():
        runner.close()
    return {
        name: (
            statistics.median(times[name] for times in rounds),
            statistics.median(times[names[0]] / times[name] for times in rounds),
            runners[name].start,
        )
        for name in names
    }


# ---------------------------------------------------------------- the tables


def speed(given: argparse.Namespace) -> None:
    print(f"{'tokens a step':>13}{'threads':>9}{'width':>7}{'plain, tokens/s':>17}{'ours':>10}{'times':>7}", end="")
    print(f"{'MFU':>8}" if given.device != "cpu" else "", flush=True)
    for tokens in given.tokens:
        for threads in given.threads:
            for width in given.widths:
                found = by_turns(["plain", "trainer"], width, tokens, threads, given)
                plain, ours = (tokens / found[name][0] for name in ("plain", "trainer"))
                print(f"{tokens:>13}{threads:>9}{width:>7}{plain:>17,.0f}{ours:>10,.0f}", end="")
                print(f"{found['trainer'][1]:>7.2f}{mfu(width, ours) if given.device != 'cpu' else ''}", flush=True)


def mfu(width: int, tokens_per_second: float) -> str:
    import torch

    from evo_tune.training.recipe import flops_per_token

    name = torch.cuda.get_device_name()
    peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
    return f"{'?' if peak is None else format(tokens_per_second * flops_per_token(shape(width)) / peak, '.1%'):>8}"


def parts(given: argparse.Namespace) -> None:
    print(f"{'times the plain loop':<48}" + "".join(f"{f'width {width}':>11}" for width in given.widths), flush=True)
    for tokens in given.tokens:
        for threads in given.threads:
            found = {width: by_turns(list(PARTS), width, tokens, threads, given) for width in given.widths}
            print(f"{tokens} tokens a step, {threads} thread{'s' * (threads > 1)}")
            for name, words in PARTS.items():
                print(f"  {words:<46}" + "".join(f"{found[w][name][1]:>11.2f}" for w in given.widths), flush=True)


def compiling(given: argparse.Namespace) -> None:
    names = ["plain", "plain compiled", "trainer", "trainer compiled"]
    print(
        f"{'width':>7}  {'':<18}{'ms a step':>10}{'times':>7}{'compiled in, s':>16}{'pays after steps':>18}", flush=True
    )
    for width in given.widths:
        found = by_turns(names, width, given.tokens[0], given.threads[0], given)
        for name in names:
            seconds, ratio, start = found[name]
            line = f"{width:>7}  {name:<18}{1e3 * seconds:>10.2f}{ratio:>7.2f}"
            if name.endswith("compiled"):
                usual, _, usual_start = found[name.removesuffix(" compiled")]
                cost, gain = start - usual_start, usual - seconds
                line += f"{cost:>16.1f}{format(cost / gain, ',.0f') if gain > 0 else 'never':>18}"
            print(line, flush=True)


def quality(given: argparse.Namespace) -> None:
    """Train random genomes in float32, in bfloat16, and in float32 with another seed; compare their losses."""
    import numpy as np
    import torch

    from evo_tune import Context
    from evo_tune.plugins.find import find_evaluator

    torch.set_num_threads(1)
    evaluator = find_evaluator("language_model")
    space = evaluator.bind({"size": "small"}).space
    rng = np.random.default_rng(given.seed)
    names = {"fp32": ("fp32", 1), "bf16": ("bf16", 1), "fp32, other seed": ("fp32", 2), "bf16, other seed": ("bf16", 2)}
    losses: dict[str, list[float]] = {name: [] for name in names}
    while len(losses["fp32"]) < given.quality:
        genome = space.repair(space.sample(rng))
        values = []
        for precision, seed in names.values():
            options = evaluator.bind({"size": "small", "flops": given.flops, "precision": precision})
            try:
                values.append(options.evaluate(genome, Context(seed=seed))["val_loss"])
            except Exception as error:
                print(f"{genome} in {precision}, seed {seed}: {error}", flush=True)
        if len(values) == len(names):
            for name, value in zip(names, values, strict=True):
                losses[name].append(value)
            print(*(f"{value:.4f}" for value in values), sep="  ", flush=True)
    low, high = np.percentile(losses["fp32"], [0, 100])
    print(f"{given.quality} genomes, losses in fp32 from {low:.3f} to {high:.3f} nats per byte")
    print(f"{'against fp32':<20}{'median difference':>19}{'median size of it':>19}{'rank correlation':>18}")
    for name in list(names)[1:]:
        differences = np.array(losses[name]) - np.array(losses["fp32"])
        ranks = [np.argsort(np.argsort(losses[which])) for which in ("fp32", name)]
        size, rank = np.median(np.abs(differences)), np.corrcoef(*ranks)[0, 1]
        print(f"{name:<20}{np.median(differences):>+19.4f}{size:>19.4f}{rank:>18.4f}")


def profiled(given: argparse.Namespace) -> None:
    """Print the share of each operation in the time of ten steps, for the plain loop and for the trainer."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(given.threads[0])
    for width in given.widths:
        for what in ("plain", "trainer"):
            once = prepared(what, width, given.tokens[0], given.device, given.precision)
            for _ in range(3):
                once()
            with profile(activities=[ProfilerActivity.CPU]) as found:
                for _ in range(10):
                    once()
            print(f"width {width}, {what}")
            print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=48))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"type": lambda given: [int(number) for number in given.split(",")]}
    parser.add_argument("--widths", default="32,64,128,256,384", help="of the models", **numbers)
    parser.add_argument("--tokens", default="2048", help="in a step", **numbers)
    parser.add_argument("--threads", default="1,2", **numbers)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", help="of the trainer; by default the fastest; fp32: as on a CPU without bf16")
    parser.add_argument("--rounds", type=int, default=9, help="the median of them is shown")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long the plain loop has in each")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--quality", type=int, nargs="?", const=30, metavar="GENOMES")
    parser.add_argument("--flops", type=float, default=1e11, help="of each training with --quality")
    parser.add_argument("--seed", type=int, default=0, help="of the genomes of --quality")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.widths[0], given.tokens[0], given.threads[0], given)
    elif given.quality:
        quality(given)
    elif given.profile:
        profiled(given)
    else:
        (parts if given.parts else compiling if given.compile else speed)(given)


if __name__ == "__main__":
    main()
