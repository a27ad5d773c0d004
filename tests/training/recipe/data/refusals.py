"""What all readers of data promise of data that they cannot use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from evo_tune.errors import OptionError, UsageError


def refused(read: Callable[..., Any], words: str, *given: Any, kind: type[UsageError] = OptionError) -> None:
    """Check that data is refused in one line."""
    with pytest.raises(kind, match=words) as caught:
        read(*given)
    assert "\n" not in str(caught.value)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
