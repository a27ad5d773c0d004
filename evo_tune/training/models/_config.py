"""What the descriptions of models have in common: each is a frozen dataclass that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from evo_tune.errors import RecipeError

__all__ = ["ModelConfig"]

C = TypeVar("C", bound="ModelConfig")


class ModelConfig:
    """The shape of a model, as a dataclass of plain fields."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)  # type: ignore[call-overload,no-any-return] # of the dataclasses below

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
