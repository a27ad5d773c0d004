"""Build models without initial weights, write them to a folder and read them; base classes of saved models.

A folder that is read may be a stranger's: `trust.safe_files` opens its files with bounded sizes. Nothing is executed.
"""

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from msgspec import MsgspecError
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.training.recipe.data.tables import Columns
from evo_tune.training.recipe.families import TableConfig
from evo_tune.training.recipe.models.base import parse_json
from evo_tune.training.recipe.models.rules import ShapeConfig
from evo_tune.trust import safe_files

M = TypeVar("M", bound=nn.Module)

S = TypeVar("S", bound="SavedModel")

Floats = NDArray[np.float64]

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# Maximum bytes of a JSON file and of the weights, and maximum numbers in tables that are computed from the shape.
LARGEST_JSON, LARGEST_WEIGHTS, LARGEST_TABLES = 1 << 26, 1 << 36, 1 << 28

# Errors of a file that is damaged, or was made to do damage.
ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,  # RecursionError too
    MemoryError,
    MsgspecError,
    SafetensorError,
)


def write_model(folder: Path | str, model: nn.Module, config: dict[str, Any], texts: Mapping[str, str] = {}) -> None:
    """Write weights and config to a folder, which is created if missing.

    Args:
        folder: Folder to write.
        model: The model.
        config: Plain data for config.json; the model's class and the SHA-256 of the other files are added.
        texts: Further files, by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (WEIGHTS, *texts)}
    about = {"class": type(model).__name__, **config, "files": files}
    (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def read_json(folder: Path | str, name: str) -> dict[str, Any]:
    """Return the object in a JSON file, of a folder that may come from somebody else.

    Raises:
        RecipeError: The file is missing, a link, too large or too deep, or no object.
    """
    try:
        data = parse_json(safe_files.read(folder, name, limit=LARGEST_JSON))
    except ERRORS as error:
        raise RecipeError("folder", str(folder), f"{_wrote(error)}, with a readable {name}") from None
    if not isinstance(data, dict):
        raise RecipeError("folder", str(folder), f"a folder that a model's save wrote ({name} is no object)")
    return data


def read_verified(folder: Path | str, config: Mapping[str, Any], name: str) -> bytes:
    """Return the content of a file after a check against its SHA-256 in config.json.

    Raises:
        OSError: The file is missing, a link, or too large.
        ValueError: It was altered.
    """
    hashes = config.get("files")
    if not isinstance(hashes, dict) or name not in hashes:
        raise ValueError(f"{CONFIG} has no SHA-256 of {name}: export the model again")
    with safe_files.open_to_read(folder, name, limit=LARGEST_WEIGHTS) as file:
        data = file.read(os.fstat(file.fileno()).st_size)  # without a size, a buffer for the limit would be made
    if hashlib.sha256(data).hexdigest() != hashes[name]:
        raise ValueError(f"{name} was altered after the export: copy the folder again")
    return data


def read_model(
    folder: Path | str, shape_of: Callable[[dict[str, Any]], Any], build: Callable[[dict[str, Any]], M]
) -> M:
    """Return the model that `write_model` wrote, without executing anything in the folder.

    Args:
        folder: Folder to read.
        shape_of: Function that makes the shape (`ModelConfig`) of the entry model of the config. It is compared with
            the weights before a model is built, so that no config takes more memory than its weights do.
        build: Function that builds a model of the right shape from the config.

    Raises:
        RecipeError: The folder has no such model, or its weights do not fit its config.
    """
    config = read_json(folder, CONFIG)
    try:
        weights = load(read_verified(folder, config, WEIGHTS))
        count = sum(tensor.numel() for tensor in weights.values())
        depth = config["model"].get("depth", 1)  # a linear model has none
        if not 0 < depth <= len(weights):
            raise ValueError(f"{len(weights)} tensors are too few for {depth} blocks")
        shape = shape_of(config["model"])
        if shape.parameters > count or shape.tables > LARGEST_TABLES:
            raise ValueError(f"{count} weights, where {CONFIG} has a model of {shape.parameters}")
        model = build(config)
        model.load_state_dict(weights)
    except ERRORS as error:
        raise RecipeError("folder", str(folder), _wrote(error)) from None
    return model


class SavedModel(nn.Module):
    """A model that can be written to a folder and read again.

    Args:
        config: Shape of the model.
        labels: Names of the outputs (classes, or the predicted number), in order; None: their numbers.

    Raises:
        RecipeError: The number of labels differs from the number of outputs.
    """

    config_class: ClassVar[type[ShapeConfig]]

    def __init__(self, config: Any, labels: Sequence[str] | None) -> None:
        super().__init__()
        self.config = config
        self.labels = [str(label) for label in (range(config.outputs) if labels is None else labels)]
        if len(self.labels) != config.outputs:
            raise RecipeError("labels", len(self.labels), f"as many as there are outputs, {config.outputs}")

    def save(self, folder: Path | str, **notes: Any) -> None:
        """Write model.safetensors and config.json for `load`; the files cannot run code.

        Args:
            folder: Folder to write; created if missing.
            notes: Plain data to add to shape and labels in config.json.
        """
        write_model(folder, self, {**self.to_json(), **notes})

    def to_json(self) -> dict[str, Any]:
        """Return the data that `load` needs in addition to the weights, as plain data."""
        return {"model": self.config.to_json(), "labels": self.labels}

    @classmethod
    def from_json(cls: type[S], data: Mapping[str, Any]) -> S:
        """Build a model from data that `to_json` returned; its weights are not loaded."""
        return cls(cls.config_class.from_json(data["model"]), **cls.facts_of(data))

    @classmethod
    def facts_of(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the model beside its shape, from data that `to_json` returned."""
        return {"labels": msgspec.convert(data["labels"], list[str])}

    @classmethod
    def load(cls: type[S], folder: Path | str, device: torch.device | str = "cpu") -> S:
        """Read a model that `save` wrote, in eval mode.

        Raises:
            RecipeError: The folder has no such model.
        """
        return read_model(folder, cls.config_class.from_json, cls.from_json).to(device).eval()


class TableFacts:
    """What a model of tables knows beside its weights: its columns, and the scale of the predicted number."""

    columns: Columns | None
    scale: tuple[float, float] | None
    # First place of each categorical column in tables of all categories.
    first: Tensor

    def set_table(self, config: Any, columns: Columns | None, scale: Sequence[float] | None) -> None:
        """Set columns, scale and `first`.

        Args:
            config: Shape of the model.
            columns: Names of the columns and their known categories.
            scale: Mean and standard deviation of the predicted number, whose standardised value is the output; None:
                the outputs are logits of classes.

        Raises:
            RecipeError: The columns do not fit the shape.
        """
        expected = config.numeric, config.categories
        if columns is not None and columns.sizes != expected:
            raise RecipeError("columns", columns.sizes, f"those of the model's shape, {expected}")
        self.columns = columns
        self.scale = scale if scale is None else (float(scale[0]), float(scale[1]))
        starts = torch.tensor([0, *(number + 1 for number in config.categories)]).cumsum(0)[:-1]
        self.register_buffer("first", starts, persistent=False)  # type: ignore[attr-defined]

    def to_json(self) -> dict[str, Any]:
        columns = None if self.columns is None else asdict(self.columns)
        return {**super().to_json(), "columns": columns, "scale": self.scale}  # type: ignore[misc]

    @classmethod
    def facts_of(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        facts = {"columns": Columns | None, "scale": tuple[float, float] | None}
        converted = {name: msgspec.convert(data[name], kind) for name, kind in facts.items()}
        return {**super().facts_of(data), **converted}  # type: ignore[misc]


def _wrote(error: BaseException) -> str:
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    return f"a folder that a model's save wrote ({type(error).__name__}: {' '.join(str(text).split())[:300]})"


class FitRows(NamedTuple):
    """Rows to fit a model to.

    Args:
        inputs: (n, values), training rows as the model reads them.
        targets: (n,), class numbers (int64), or standardised real numbers (float64).
        weights: (n,), weight of each row; their mean is 1.
        held_out: (m, values), rows whose outputs are wanted after each step.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    weights: Floats
    held_out: NDArray[Any]


class FittedModel(SavedModel):
    """A model that is no network, and is fitted in steps to all training rows at once.

    It has the interface of an encoder: a module whose buffers are what it has learned. So exported folders, predictions
    and scores are those of all models.

    Args:
        config: Shape of the model.
        labels: Names of the outputs: of the classes in order, or of the predicted number.

    Raises:
        RecipeError: The labels do not fit the shape.
    """

    # Names of the buffers that the steps of a fit change.
    fitted: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, *, labels: Sequence[str]) -> None:
        super().__init__(config, labels)
        self.build(config)
        add_hook: Any = self.register_load_state_dict_post_hook  # untyped
        add_hook(lambda module, _: module.check())

    @abstractmethod
    def build(self, config: Any) -> None:
        """Make the buffers."""

    @abstractmethod
    def fit(self, rows: FitRows, genome: Mapping[str, Any], steps: int, seed: int) -> Iterator[Floats]:
        """Learn from rows, and yield the outputs of the held-out rows after each step, (m, outputs).

        Args:
            rows: Rows to learn from.
            genome: Gene values.
            steps: Number of steps; fewer if the fit has converged.
            seed: Seed of everything random.
        """

    def state(self) -> Any:
        """Return the present state of a fit, for `finish`."""
        return [getattr(self, name).detach().clone() for name in self.fitted]

    def finish(self, state: Any) -> None:
        """Set the buffers to a state of the fit."""
        for name, tensor in zip(self.fitted, state, strict=True):
            getattr(self, name).detach().copy_(tensor)

    def check(self) -> None:
        """Check the content of the buffers.

        Raises:
            ValueError: A number in them is out of its range.
        """

    def outputs(self, scores: Tensor) -> Tensor:
        """Return outputs, (batch, outputs), of scores; with two classes the score is the logit of the second."""
        return torch.cat((torch.zeros_like(scores), scores), 1) if self.config.outputs == 2 else scores


class TableModel(TableFacts, FittedModel):
    """A model of tables that is fitted in steps.

    Args:
        config: Shape of the model.
        labels: See `FittedModel`.
        columns: Names of the columns and their known categories.
        scale: Mean and standard deviation of the predicted number, whose standardised value is the output; None: the
            outputs are logits of classes.

    Raises:
        RecipeError: The labels or the columns do not fit the shape.
    """

    config: TableConfig
    columns: Columns

    def __init__(
        self, config: Any, *, labels: Sequence[str], columns: Columns, scale: Sequence[float] | None = None
    ) -> None:
        super().__init__(config, labels=labels)
        self.set_table(config, columns, scale)

    def places(self, rows: Tensor) -> Tensor:
        """Return the place of each category in tables of all categories, (batch, categorical columns)."""
        return rows[:, self.config.numeric :].long() + self.first
