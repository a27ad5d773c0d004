"""What the descriptions of models have in common: each is a frozen dataclass that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from evo_tune.errors import RecipeError
from evo_tune.recipe.models.rules import Parametrisation

__all__ = ["ModelConfig"]

C = TypeVar("C", bound="ModelConfig")


class ModelConfig:
    """The shape of a model, as a dataclass of plain fields; `scaling` says how it depends on its size."""

    depth: int
    width: int
    heads: int
    scaling: Parametrisation | None

    def __post_init__(self) -> None:
        given: Any = self.scaling
        if isinstance(given, Mapping):  # as JSON has it
            object.__setattr__(self, "scaling", Parametrisation(**given))

    def to_json(self) -> dict[str, Any]:
        """Return plain data; a standard model says nothing of how it depends on its size, as in older files."""
        data: dict[str, Any] = asdict(self)  # type: ignore[call-overload] # of the dataclasses below
        if self.scaling is None:
            del data["scaling"]
        return data

    @property
    def branch(self) -> float:
        """By what residual branches are multiplied."""
        return 1.0 if self.scaling is None else 1.0 / self.scaling.deeper(self.depth)

    @property
    def readout(self) -> float:
        """By what logits are multiplied."""
        return 1.0 if self.scaling is None else 1.0 / self.scaling.wider(self.width)

    @property
    def attention_scale(self) -> float | None:
        """By what queries times keys are multiplied; None: by 1/√head_dim."""
        return None if self.scaling is None else self.scaling.attention_scale(self.width // self.heads)

    @classmethod
    def from_json(cls: type[C], data: Mapping[str, Any]) -> C:
        """Build it from what `to_json` gave.

        Raises:
            RecipeError: An unknown field, or one out of its range.
        """
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name, value in data.items():
            if name not in known:
                raise RecipeError(name, value, f"only the fields {', '.join(known)}")
        return cls(**data)
