"""Compiled blocks: a training compiles each kind of block once for its steps and once for its evaluations.

torch keeps compiled variants by code object and runs the ninth one eagerly. All blocks of all trainings of a process
have the same code, so each kind of block gets a copy of its own. Batches have a dynamic size. This module is
independent of models.
"""

import importlib
import itertools
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from evo_tune.training.models.block import Block
from evo_tune.training.models.dropout import NoiseLayer
from evo_tune.trust.safe_files import compiled_code_folder

# Before the first optimizer, whose making imports the compiler. Workers have it from their parent.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled_code_folder()))

_numbers = itertools.count()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return a model's blocks: its `blocks`, or the items of its longest list of modules, or the model itself."""
    modules: Iterable[Any] = [model.blocks] if hasattr(model, "blocks") else model.modules()
    lists = [module for module in modules if isinstance(module, nn.ModuleList) and len(module)]
    return list(max(lists, key=len)) if lists else [model]  # type: ignore[arg-type]


def compile_blocks(model: nn.Module) -> None:
    """Compile a model's blocks in place at their first pass; the model must already be on its final device.

    The masks of windows and documents become those of flex_attention, where device and shape allow it.
    """
    _import_compiler()
    layers = [module for module in model.modules() if isinstance(module, NoiseLayer) and module.noise is not None]
    if layers and layers[0].noise is not None:
        layers[0].noise.prepare_for_compiler(layers)
    if hasattr(model, "flex"):
        model.flex = supports_flex(model)  # type: ignore[assignment]
    model.compiled = True  # type: ignore[assignment]
    compiled: dict[Hashable, Callable[..., Tensor]] = {}
    for block in blocks_of(model):
        kind = kind_of(block)
        if kind not in compiled:
            compiled[kind] = torch.compile(_copy_of_code(_call_forward, type(block).__name__))
        lengths = getattr(model, "lengths_vary", False)
        block.forward = _with_dynamic_sizes(compiled[kind], block, lengths=lengths)


def _import_compiler() -> None:
    """Import the compiler, which takes its folder of compiled headers from the temporary folder of that moment.

    TORCHINDUCTOR_CACHE_DIR does not move that folder. The caller's temporary folder stays what it was.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(compiled_code_folder())
    try:
        importlib.import_module("torch._inductor.codecache")
    finally:
        tempfile.tempdir = before


def supports_flex(model: nn.Module) -> bool:
    """Return whether flex_attention can train a model with a `config`: a CPU has no backward pass of it."""
    config: Any = model.config
    head_dim = config.width // config.heads
    return next(model.parameters()).device.type == "cuda" and head_dim in (16, 32, 64, 128, 256)


def kind_of(block: nn.Module) -> Hashable:
    """Return a value that is equal for blocks with the same compiled code: same modules, shapes of weights, windows."""
    modules = [(name, type(module), getattr(module, "windowed", None)) for name, module in block.named_modules()]
    weights = [(name, weight.shape, weight.requires_grad) for name, weight in block.named_parameters()]
    return tuple(modules), tuple(weights)


def _call_forward(block: nn.Module, *inputs: Any, **options: Any) -> Any:
    return type(block).forward(block, *inputs, **options)


def _copy_of_code(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a copy of a function without the compiled variants, and the sizes that torch has seen, of the original."""
    code = function.__code__.replace(co_name=f"{name}_{next(_numbers)}")
    return FunctionType(code, function.__globals__, code.co_name)


def _with_dynamic_sizes(compiled: Callable[..., Any], block: nn.Module, *, lengths: bool) -> Callable[..., Any]:
    """Return the forward pass of a block for batches of any size, and for any lengths.

    torch finds out at the second size which inputs of other blocks than this package's have a batch.
    """
    if not isinstance(block, Block):
        return lambda *inputs, **options: compiled(block, *inputs, **options)

    def forward(x: Tensor, rotation: Tensor | None = None, mask: Any = None, *others: Tensor | None) -> Any:
        for batched in (x, mask if isinstance(mask, Tensor) and mask.ndim == 4 else None, *others):
            if batched is not None:
                sizes = {0, 1 if batched.ndim < 4 else 3} if lengths else {0}
                torch._dynamo.mark_dynamic(batched, [size for size in sizes if batched.shape[size] > 1])
        return compiled(block, x, rotation, mask, *others)

    return forward
