"""Limits and slots of a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import OptionError, UsageError
from evo_tune.loop.search import Search
from evo_tune.settings import SessionSettings

Begin = Callable[..., Search]


@pytest.mark.parametrize(
    "field", [{"trials": 0}, {"generations": -1}, {"hours": 0.0}, {"retries": -1}, {"final_seeds": -2}, {"trials": 1.5}]
)
def test_limits_out_of_range(begin: Begin, tmp_path: Path, field: dict[str, Any]) -> None:
    name = next(iter(field)).replace("_", "-")
    with pytest.raises(OptionError, match=f"--{name} .*: expected"):
        begin(**field)
    assert not (tmp_path / "store").exists()
    with pytest.raises(UsageError):
        SessionSettings(**field)
