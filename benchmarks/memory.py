"""Compare the predicted memory of trainings that do not fit into this machine with that of their real step.

The package's model and `Trainer` take their steps with torch's fake tensors, which have shapes but no numbers. A
counter of live storages gives the peak of a later step, when all states exist. Fake tensors on a GPU need torch with
CUDA, so a GPU's tensors are fake tensors of the CPU here, and only the package sees a GPU: it takes its paths for GPUs,
and its attention and RMSNorm keep what the kernels of a GPU keep. Workspaces inside kernels are not seen.

    python benchmarks/memory.py                 all genomes, 10 M to 1 B weights
    python benchmarks/memory.py --only gpu-350m one genome
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evo_tune import training
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.recipe import GPTConfig, Memory, Schedule, WeightDecay, predict_memory

GPU = torch.device("cuda", 0)
STEPS = 3  # the last one is measured: the first creates moments, and the second rebuilds the buffers of ranks


@dataclass(frozen=True)
class Genome:
    """A training whose memory is predicted.

    Args:
        name: Name in the table.
        batch: Sequences per pass.
        config: Shape of the model.
        setup: Fields of `recipe.hardware.memory.Setup`.
        passes: Passes per step.
    """

    name: str
    batch: int
    config: dict[str, Any]
    setup: dict[str, Any] = field(default_factory=dict)
    passes: int = 1

    def predict(self) -> Memory:
        accumulated = self.passes > 1
        return predict_memory(GPTConfig(**self.config), self.batch, accumulated=accumulated, **self.setup)


# ---------------------------------------------------------------- fake tensors


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations create, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.largest = ""  # operation at the peak
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        if self.live > self.peak:
            self.peak, self.largest = self.live, str(func)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._storages:
            self._storages.add(address)
            self.live += size
            weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self.live -= size

    def reset(self) -> None:
        """Forget the peak so far."""
        self.peak, self.largest = self.live, ""


class NormOfGPU(torch.autograd.Function):
    """What torch's fused RMSNorm keeps and makes on a GPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def attention_of_gpu(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **options: Any
) -> Tensor:
    """Attend by the kernel that torch chooses on a GPU with deterministic algorithms: only one of them takes masks."""
    ops, scale = torch.ops.aten, options.get("scale")
    if attn_mask is None and q.dtype != torch.float32:
        return ops._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).expand(*q.shape[:3], k.shape[2])
    return ops._scaled_dot_product_efficient_attention(q, k, v, attn_mask, True, 0.0, is_causal, scale=scale)[0]


class GPUCalls(TorchFunctionMode):
    """Replaces calls that need a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        args = tuple(
            "cpu" if isinstance(arg, str | torch.device) and str(arg).startswith("cuda") else arg for arg in args
        )
        kwargs.pop("pin_memory", None)
        return func(*args, **kwargs)


def device_of(tensor: FakeTensor) -> torch.device:
    """Return a fake tensor's device; to the package, that of a GPU."""
    package = sys._getframe(1).f_globals.get("__name__", "").startswith("evo_tune.")
    return GPU if package and not tensor.fake_mode.in_kernel_invocation else device_of.real.__get__(tensor)  # type: ignore[attr-defined]


device_of.real = FakeTensor.device  # type: ignore[attr-defined]


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Let the package see the fake tensors of the block as tensors of a GPU."""
    autocast, enabled, dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    patches = {
        "torch.autocast": lambda kind, **options: autocast("cpu", **options),
        "torch.is_autocast_enabled": lambda kind="cpu": enabled("cpu"),
        "torch.get_autocast_dtype": lambda kind: dtype("cpu"),
        "torch.cuda.is_bf16_supported": lambda **options: True,
        "torch.nn.functional.scaled_dot_product_attention": attention_of_gpu,
        "torch.nn.functional.rms_norm": lambda x, shape, weight, eps: NormOfGPU.apply(x, weight),
        "torch.Generator": lambda device="cpu", make=torch.Generator: make("cpu"),
        "evo_tune.training.stepping.feeding.onto": lambda tensor, device: tensor,
    }
    with ExitStack() as stack:
        for name, replacement in patches.items():
            stack.enter_context(mock.patch(name, replacement))
        stack.enter_context(mock.patch.object(FakeTensor, "device", property(device_of)))
        stack.enter_context(GPUCalls())
        yield


@contextmanager
def fake_ranks(size: int) -> Iterator[Ranks | None]:
    """Yield a group of processes without the others, or None for one process."""
    if size == 1:
        yield None
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    module = "torch.nn.parallel.distributed"
    try:
        with mock.patch(f"{module}._verify_param_shape_across_processes"), mock.patch(f"{module}._sync_module_states"):
            yield Ranks(rank=0, size=size, device=torch.device("cpu"), check_every=None)
    finally:
        dist.destroy_process_group()


def reduce_in_place(state, bucket):  # type: ignore[no-untyped-def]  # torch refuses annotations that are strings
    """Return the gradients of a bucket as if the ranks had averaged them."""
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


class Windows:
    """Source of windows without numbers."""

    def __init__(self, genome: Genome, length: int) -> None:
        self.shape, self.passes = (genome.batch, length), genome.passes

    def window(self, step: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.zeros(self.shape, dtype=torch.long),) * 2 for _ in range(self.passes)]

    def target_count(self, step: int) -> int:
        return math.prod(self.shape) * self.passes


def shape(depth: int, width: int, context: int, vocabulary: int, **options: Any) -> dict[str, Any]:
    """Return the arguments of a GPTConfig with heads of 64 channels."""
    sizes = {"depth": depth, "width": width, "context": context, "vocab_size": vocabulary}
    return {"heads": width // 64, **sizes, **options}


MODERN: dict[str, Any] = {"position": "rope", "qk_norm": True}
LLAMA: dict[str, Any] = {"position": "rope"}
CARD: dict[str, Any] = {"device": "cuda", "precision": "bf16"}
MUON = {"optimizer": "muon"}
GPT2 = 50304

GENOMES = (
    Genome("cpu-10m", 8, shape(6, 384, 256, 256)),
    Genome("cpu-10m-bf16", 8, shape(6, 384, 256, 256, **MODERN), {"precision": "bf16", **MUON}),
    Genome("cpu-10m-documents", 4, shape(6, 384, 512, 256, boundary=0), {"precision": "bf16"}),
    Genome("cpu-10m-window", 4, shape(6, 384, 1024, 256, window=128, **MODERN), {"precision": "bf16", "ema": True}),
    Genome("cpu-10m-sgd", 8, shape(6, 384, 256, 256), {"optimizer": "sgd"}),
    Genome("cpu-20m-vocabulary", 4, shape(6, 384, 512, 8192), {"precision": "bf16"}),
    Genome("cpu-30m-dropout", 8, shape(8, 512, 256, 512, dropout=0.1)),
    Genome("cpu-45m-passes", 4, shape(12, 512, 256, 8192, **LLAMA), {"ema": True}, passes=2),
    Genome("cpu-85m-recompute", 4, shape(12, 768, 1024, 256), {"recompute": 1}),
    Genome("cpu-125m-ranks", 2, shape(12, 768, 1024, GPT2), {"ranks": 2}),
    Genome("gpu-10m", 64, shape(6, 384, 256, 256), CARD),
    Genome("gpu-10m-few", 1, shape(6, 384, 256, 256), CARD),
    Genome("gpu-10m-muon", 64, shape(6, 384, 256, 256, **MODERN), {**CARD, **MUON, "ema": True}),
    Genome("gpu-20m-window", 16, shape(6, 384, 2048, 4096, window=512), CARD),
    Genome("gpu-20m-documents", 8, shape(6, 384, 2048, 4096, boundary=0), CARD),
    Genome("gpu-50m", 32, shape(12, 512, 1024, 8192, **LLAMA), {**CARD, "ema": True}),
    Genome("gpu-50m-fp32", 8, shape(12, 512, 1024, 8192), {"device": "cuda"}),
    Genome(
        "gpu-50m-values",
        16,
        shape(12, 512, 1024, 4096, value_embeddings=True, **MODERN),
        {**CARD, **MUON},
    ),
    Genome("gpu-100m-recompute-2", 16, shape(14, 768, 1024, 256), {**CARD, "recompute": 2}),
    Genome("gpu-125m", 16, shape(12, 768, 1024, GPT2), CARD),
    Genome("gpu-125m-passes", 16, shape(12, 768, 1024, GPT2), CARD, passes=2),
    Genome("gpu-125m-ranks", 16, shape(12, 768, 1024, GPT2), {**CARD, "ranks": 8}),
    Genome("gpu-125m-ranks-muon", 4, shape(12, 768, 1024, GPT2, **MODERN), {**CARD, **MUON, "ranks": 8, "ema": True}),
    Genome("gpu-350m", 8, shape(24, 1024, 1024, GPT2, kv_heads=4, **LLAMA), {**CARD, "ema": True}),
    Genome("gpu-350m-recompute", 8, shape(24, 1024, 2048, GPT2, **LLAMA), {**CARD, "recompute": 1}),
    Genome(
        "gpu-350m-documents", 4, shape(24, 1024, 1024, GPT2, boundary=0, **MODERN), {**CARD, **MUON, "recompute": 1}
    ),
    Genome("gpu-760m-muon", 4, shape(24, 1536, 1024, GPT2, **MODERN), {**CARD, **MUON}),
    Genome("gpu-1b", 2, shape(24, 1920, 2048, GPT2, **LLAMA), CARD),
    Genome("gpu-1b-recompute", 4, shape(24, 1920, 2048, GPT2, **LLAMA), {**CARD, **MUON, "recompute": 1, "ema": True}),
)


def trainer_of(genome: Genome, ranks: Ranks | None) -> training.Trainer:
    """Return the trainer of a genome; its model must be fake."""
    setup = {"device": "cpu", "optimizer": "adamw", "precision": "fp32", **genome.setup}
    config = GPTConfig(**genome.config)
    optimizers = {"adamw": training.AdamW, "muon": training.Muon, "sgd": training.SGD}
    recipe = training.Recipe(
        optimizer=optimizers[setup["optimizer"]](lr=1e-3),
        schedule=Schedule(steps=100),
        weight_decay=WeightDecay(start=0.1),
        precision=training.Precision(name=setup["precision"]),
        ema=0.99 if setup.get("ema") else None,
    )
    model = training.GPT(config, recompute=setup.get("recompute")).train()
    trainer = training.Trainer(model, Windows(genome, config.context), recipe, device=setup["device"], ranks=ranks)
    if ranks is not None:
        trainer.feed.ranks = None  # `batch` is the part of one rank
        trainer.replica.register_comm_hook(None, reduce_in_place)
        # Buckets of the same size in another order, whose numbers are sent to the other ranks.
        reducer = mock.Mock(wraps=trainer.replica.reducer, **{"_rebuild_buckets.return_value": False})
        trainer.replica.reducer = reducer
    return trainer


def track(genome: Genome, *, fake: bool = True) -> LiveBytes:
    """Return the memory of a genome's last step, by fake tensors or by real ones."""
    gpu, live = genome.setup.get("device") == "cuda", LiveBytes()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())  # copies for the average look at the fake tensors' address
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        ranks = stack.enter_context(fake_ranks(genome.setup.get("ranks", 1)))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext())
        stack.enter_context(live)
        if gpu:
            stack.enter_context(pretended_gpu())
        # The host reads no numbers of fake tensors.
        stack.enter_context(mock.patch.object(FakeTensor, "tolist", lambda tensor: [1.0] * tensor.numel()))
        verdict = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
        copy = "evo_tune.training.trainer.copy_to_host_async"
        stack.enter_context(mock.patch(copy, return_value=lambda: verdict))
        trainer = trainer_of(genome, ranks)
        for step in range(STEPS):
            if step == STEPS - 1:
                live.reset()
            trainer.advance(False)
    return live


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", choices=[genome.name for genome in GENOMES], help="of one genome")
    only = parser.parse_args().only
    print(f"{'genome':<23}{'weights':>10}{'tracked, MB':>13}{'predicted':>11}{'ratio':>7}  at the peak")
    ratios = []
    for genome in GENOMES:
        if only in (None, genome.name):
            live, memory = track(genome), genome.predict()
            predicted = memory.peak - memory.context
            ratios.append(predicted / live.peak)
            weights = GPTConfig(**genome.config).parameters / 1e6
            row = (
                f"{genome.name:<23}{weights:>8.0f} M{live.peak / 1e6:>13.1f}{predicted / 1e6:>11.1f}{ratios[-1]:>7.3f}"
            )
            print(f"{row}  {live.largest}", flush=True)
    print(f"{len(ratios)} genomes, predicted / tracked: {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
