"""The public names are those recorded in tests/public.txt."""

from __future__ import annotations

import pytest

from tests import public
from tests.extras import need


@pytest.mark.slow
def test_public_names_are_those_recorded() -> None:
    """Which of them may change in which version: docs/stability.md."""
    for extra in ("sklearn", "hf", "lightning"):
        need(extra)
    found, recorded = public.public(), public.recorded()
    more = {f"{owner} {name}" for owner, names in found.items() for name in {"", *names} - {*recorded.get(owner, ())}}
    less = {f"{owner} {name}" for owner, names in recorded.items() for name in {"", *names} - {*found.get(owner, ())}}
    more, less = more - {f"{owner} " for owner in recorded}, less - {f"{owner} " for owner in found}
    assert not less, f"removed: {sorted(less)}: see docs/stability.md, then run `make public`"
    assert not more, f"added: {sorted(more)}: run `make public`"
    assert found == recorded, "the order of parameters has changed: see docs/stability.md, then run `make public`"


def test_a_parameter_that_is_removed_or_renamed_is_noticed() -> None:
    def function(first: int, *rest: int, last: int = 0, **others: int) -> None: ...

    assert list(public.parameters(function)) == ["first", "*rest", "*.last=", "**others"]
    assert "evo_tune.Search()" in public.recorded()
