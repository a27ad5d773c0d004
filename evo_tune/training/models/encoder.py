"""The encoder that all classifiers share: blocks in which every token sees every other, a norm, a head.

The blocks are the decoder's, with causal attention off. A classifier adds how its inputs become tokens and
which of the tokens it reads. Knows nothing of images, tables or texts, nor of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.recipe.models.encoder_config import EncoderConfig
from evo_tune.training.hardware.recompute import run_block
from evo_tune.training.models.block import Block
from evo_tune.training.models.dropout import Dropout, DropPath
from evo_tune.training.models.model_files import read_model, write_model
from evo_tune.training.models.unfilled import unfilled

__all__ = ["Classifier"]

C = TypeVar("C", bound="Classifier")


class EncoderBlock(Block):
    """A block whose residual branches are left out now and then."""

    def __init__(self, config: EncoderConfig, drop_path: float) -> None:
        super().__init__(config)
        if drop_path:
            self.dropout = nn.Sequential(self.dropout, DropPath(drop_path))
            self.ffn_dropout = nn.Sequential(self.ffn_dropout, DropPath(drop_path))


class Classifier(nn.Module):
    """Base of the classifiers: a subclass builds its own parts in `build` and maps inputs to logits.

    Args:
        config: The shape.
        seed: Seed of the initial weights, drawn on the CPU from a generator of their own.
        labels: Names of the classes, in order; None: their numbers.

    Raises:
        RecipeError: There are not as many labels as classes.
    """

    config_class: ClassVar[type[EncoderConfig]]
    recompute: int | None = None
    """Compute every so-manieth block again for the gradient: 1 for all of them; None: none."""

    def __init__(self, config: Any, seed: int = 0, *, labels: Sequence[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.labels = [str(label) for label in (range(config.classes) if labels is None else labels)]
        if len(self.labels) != config.classes:
            raise RecipeError("labels", len(self.labels), f"as many as there are classes, {config.classes}")
        with unfilled():  # the modules' own initialisation would be thrown away
            self.dropout = Dropout(config.dropout)
            self.blocks = nn.ModuleList(EncoderBlock(config, share) for share in config.drop_paths)
            self.norm = nn.LayerNorm(config.width)
            self.head = nn.Linear(config.width, config.classes)
            self.build(config)
        self.initialise(torch.Generator().manual_seed(seed))

    def build(self, config: Any) -> None:
        """Make the parts that turn inputs into tokens; called where weights are not filled yet."""
        raise NotImplementedError

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights N(0, 1/√fan-in), embeddings N(0, 0.02); residual branches and the head begin at zero.

        So each block begins as the identity, and the first loss is ln C exactly (see `GPTConfig.init`).
        """
        for module in self.modules():
            for name, weight in module.named_parameters(recurse=False):
                if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                    weight.fill_(1.0 if name == "weight" else 0.0)
                elif name == "bias":
                    weight.zero_()
                else:
                    matmul = isinstance(module, nn.Linear | nn.Conv2d)
                    std = 1.0 / math.sqrt(weight[0].numel()) if matmul else 0.02
                    weight.normal_(0.0, std, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        for name, weight in self.named_parameters():
            if name.endswith(".out.weight") or name == "head.weight":
                weight.zero_()

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Send tokens through the blocks.

        Args:
            x: (batch, tokens, width).
            mask: (batch, 1, 1, tokens), bool: which tokens may be looked at; None: all.

        Returns:
            (batch, tokens, width), normed.
        """
        x = self.dropout(x)
        for number, block in enumerate(self.blocks):
            x = run_block(block, number, self.recompute, x, None, mask)
        normed: Tensor = self.norm(x)
        return normed

    def shortened(self, inputs: Tensor) -> Tensor:
        """Return inputs on the CPU without what would be computed for nothing; where there is none, as they are.

        It is asked of the host, before the inputs travel: a model that looks for it has its device waited for.
        """
        return inputs

    @torch.inference_mode()
    def probabilities(self, inputs: Tensor, batch: int = 256) -> Tensor:
        """Return the probability of each class, (samples, classes), on the CPU; dropout is off.

        Args:
            inputs: As `forward` takes them.
            batch: Samples at a time.
        """
        if not len(inputs):
            return torch.empty(0, self.config.classes)
        was_training, device = self.training, self.head.weight.device
        self.eval()
        try:
            pieces = (self.shortened(part).to(device) for part in torch.split(inputs, batch))
            parts = [self(piece).float().softmax(-1).cpu() for piece in pieces]
        finally:
            self.train(was_training)
        return torch.cat(parts)

    def names(self, inputs: Tensor) -> list[str]:
        """Return the label of the likeliest class for each input, as `forward` takes them."""
        return [self.labels[number] for number in self.probabilities(inputs).argmax(-1).tolist()]

    def standardise(self, inputs: Tensor) -> None:
        """Take note of the scale of the training samples, (n, …); one whose inputs have none does nothing."""

    def save(self, folder: Path | str, **notes: Any) -> None:
        """Write model.safetensors and config.json, which `load` reads; nothing in them can run code.

        Args:
            folder: Where; made if it is not there.
            notes: Plain data to keep in config.json beside shape and labels.
        """
        write_model(folder, self, {**self.to_json(), **notes})

    def to_json(self) -> dict[str, Any]:
        """Return what is needed beside the weights, as plain data."""
        return {"model": self.config.to_json(), "labels": self.labels}

    @classmethod
    def from_json(cls: type[C], data: Mapping[str, Any]) -> C:
        """Build a model of the shape and with the names that `to_json` gave, its weights yet to be loaded."""
        return cls(cls.config_class.from_json(data["model"]), labels=data["labels"])

    @classmethod
    def load(cls: type[C], folder: Path | str, device: torch.device | str = "cpu") -> C:
        """Read a model that `save` wrote, ready for use (in eval mode).

        Raises:
            RecipeError: The folder holds no such model.
        """
        return read_model(folder, cls.from_json).to(device).eval()
