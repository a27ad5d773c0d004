"""Facts about a training in an exported model's folder, read as declared types: the folder may be a stranger's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from evo_tune.errors import RecipeError

Count = Annotated[int, Meta(ge=1, le=2**40)]


class Evaluated(Struct, frozen=True):
    """Settings with which the metrics were computed; the same settings give the same digits.

    Args:
        device: Kind of device: 'cpu', 'cuda'.
        threads: CPU threads.
        precision: Precision of the products.
    """

    device: str = "cpu"
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"


class Inputs(Struct, frozen=True):
    """Values of the training images.

    Args:
        dtype: Type of the pixels.
        low: Smallest value.
        high: Largest value.
    """

    dtype: str
    low: float
    high: float


class ScoredText(Struct, frozen=True):
    """The part of a held-out text that was scored.

    Args:
        block: Length of a block: bytes, or tokens of a tuned model.
        count: Approximate length of all blocks.
    """

    block: Count
    count: Count


class TrainingFacts(Struct, frozen=True):
    """The training of a model.

    Args:
        genome: Values of the genes.
        options: Options of the evaluator.
        seed: Seed of the training.
        metrics: Metrics of the training.
        data: SHA-256 of the data and its split.
        rows: Number of samples of each part: training, held_out, test; and of the last fit, if there was another.
        evaluated: How the metrics were computed.
        inputs: Values of the training images, for images.
        judged: The part of the held-out text that was scored, for texts.
    """

    genome: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    data: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    evaluated: Evaluated = field(default_factory=Evaluated)
    inputs: Inputs | None = None
    judged: ScoredText | None = None

    @property
    def has_learned_test(self) -> bool:
        """Whether the last fit had the test samples, after the metrics were computed."""
        parts = ("training", "held_out", "test")
        return self.rows.get("last_fit", 0) >= sum(self.rows.get(part, 0) for part in parts) > 0


def read_training_facts(folder: Path, notes: Mapping[str, Any]) -> TrainingFacts:
    """Return the training of a model from the notes in its folder.

    Raises:
        RecipeError: An entry has another type.
    """
    try:
        return msgspec.convert(dict(notes), TrainingFacts)
    except msgspec.ValidationError as error:
        raise RecipeError("folder", str(folder), f"what a model's export wrote ({error})") from None
