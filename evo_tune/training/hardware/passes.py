"""How much memory a training of any model takes, from two small passes of it, and how many samples fit in one pass.

What autograd keeps for the backward pass is counted, tensor by tensor, for one sample and for two; it grows in
proportion. So this knows no architecture, takes no device's word for it, and gives the same on every one. (For a
`GPT`, `memory` knows a formula, which needs no model.)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.recipe.hardware.memory import Memory
from evo_tune.training.hardware.capacity import device_memory

__all__ = ["PassMemory", "fit_pass", "kept_bytes"]

_MARGIN = 0.9
"""Share of a device's memory that a training may be predicted to take."""

_CONTEXT = 0.75 * 2**30
"""What CUDA's own libraries take, bytes."""

_MOMENTS = {"adamw": 8, "muon": 8, "sgd": 4}
"""Bytes of an optimizer's moments for each weight."""


def kept_bytes(model: nn.Module, inputs: Tensor, autocast: Callable[[], AbstractContextManager[object]]) -> float:
    """Return the bytes that autograd keeps of a training pass, the model's own weights not counted, each storage once.

    The model is left as it was, batch norms' statistics included; randomness is used up.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    was_training = model.training
    model.train()
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast():
            model(inputs)
    finally:
        model.train(was_training)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return float(sum(sizes.values()))


class PassMemory:
    """Predicts the memory of a training.

    Args:
        model: On its device; recomputation is put in at `recompute`.
        two: Inputs of two samples, as long as any.
        autocast: Gives the context of a forward pass.
        optimizer: 'adamw', 'muon' (counted as AdamW) or 'sgd'.
        ema: Whether an average of the weights is kept.
        outputs: Numbers in the logits of one sample; they, their log-softmax and its gradient live at the same time.
        blocks: Number of blocks of equal size that the model consists of, all but its ends.
        recompute: Every so-manieth block is computed again; None: none.
        block_input: Numbers in a block's input, for one sample.
    """

    def __init__(
        self,
        model: nn.Module,
        two: Tensor,
        *,
        autocast: Callable[[], AbstractContextManager[object]],
        optimizer: str,
        ema: bool,
        outputs: int,
        blocks: int = 1,
        recompute: int | None = None,
        block_input: int = 0,
    ) -> None:
        device = next(model.parameters()).device
        one = kept_bytes(model, two[:1], autocast)
        self._each = max(1.0, kept_bytes(model, two, autocast) - one)
        self._fixed = max(0.0, one - self._each)
        self._outputs = 16.0 * outputs
        self._blocks, self.recompute, self._block_input = blocks, recompute, block_input
        self._context = _CONTEXT if device.type == "cuda" else 0.0
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        self._states = weights + trained * (4.0 + _MOMENTS[optimizer] + (4.0 if ema else 0.0))

    def __call__(self, batch: int, recompute: int | None = None) -> Memory:
        """Return the memory of a training with so many samples in one pass."""
        kept, every = batch * self._each, recompute or self.recompute
        if every is not None:
            again = -(-self._blocks // every)
            # A block that is computed again keeps its input; one such block at a time is there in full.
            kept *= min(1.0, (self._blocks - again + 1) / self._blocks)
            kept += 4.0 * batch * again * self._block_input
        return Memory(self._states, self._fixed + kept, batch * self._outputs, self._context)


def fit_pass(memory: Callable[[int], Memory], batch: int, device: torch.device | str, *, sharing: int = 1) -> int:
    """Return the samples of the largest pass, by halving a batch, that takes at most 90% of a device's memory.

    Args:
        memory: Predicts it.
        batch: Samples in a step of one process.
        device: Where. One whose memory torch does not tell (such as 'mps') gets the batch in one piece.
        sharing: Processes of this training on this machine, which share a CPU's memory.

    Raises:
        RecipeError: Not even one sample fits.
    """
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        return batch
    capacity = device_memory(device) / (sharing if kind == "cpu" else 1)
    largest = batch
    while (needed := memory(largest).peak / _MARGIN) > capacity:
        if largest == 1:
            raise RecipeError("capacity", capacity, f"{needed:.3g} bytes or more for one sample of this model")
        largest = -(-largest // 2)
    return largest
