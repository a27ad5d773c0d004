"""What one declaration says: type, default, bounds, help and gene; groups are mixins, each with its own check."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from evo_tune import Options, option
from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.binding import bind_options, build_options, options_of

NAMES = {"cosine": 1, "linear": 2}


@dataclass(frozen=True, kw_only=True)
class Rates(Options):
    """The learning rate along the steps."""

    schedule: str = option("cosine", choices=NAMES, help="Its shape")
    floor: float = option(0.1, bounds="[0, 1]", help="Where it ends", gene="0.0|0.1|0.3")

    def check(self) -> None:
        if self.schedule == "linear" and self.floor == 1.0:
            raise OptionError("-o schedule=linear and -o floor=1: give a smaller floor")


@dataclass(frozen=True, kw_only=True)
class Rest(Options):
    """What is left."""

    steps: int = option(10, bounds="[1, 100]", help="How many", unit="steps")
    window: int | None = option(None, bounds="[1, inf)", help="What is seen")
    micro: int | Literal["auto"] | None = option("auto", bounds="[1, inf)", help="At once")
    kind: Literal["a", "b"] = option("a", help="Which")
    fast: bool = option(False, help="Whether")
    data: str = option("", help="Where", gene=None)


@dataclass(frozen=True, kw_only=True)
class Both(Rates, Rest):
    """All of it."""

    floor: float = option(0.0, bounds="[0, 1]", help="Where it ends", gene="0.0|0.1|0.3")


def test_a_declaration_holds_all_attributes() -> None:
    found = options_of(Both)
    assert set(found) == {"schedule", "floor", "steps", "window", "micro", "kind", "fast", "data"}
    assert found["floor"].default == 0.0
    assert found["floor"].group == "The learning rate along the steps"
    assert found["steps"].group == "What is left"
    assert found["steps"].unit == "steps"
    assert found["schedule"].kind == "cosine or linear"
    assert found["kind"].choices == ("a", "b")
    assert found["data"].gene is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "cosin"},
        {"schedule": 1},
        {"floor": 1.5},
        {"floor": math.nan},
        {"floor": True},
        {"floor": "0.1"},
        {"floor": None},
        {"steps": 0},
        {"steps": 2.0},
        {"steps": True},
        {"steps": 101},
        {"window": 0},
        {"window": math.inf},
        {"micro": "all"},
        {"micro": 0},
        {"kind": "c"},
        {"kind": None},
        {"fast": 1},
        {"fast": "true"},
        {"data": None},
        {"data": 3},
    ],
)
def test_wrong_values_are_refused_at_construction(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        Both(**wrong)
    assert caught.value.field == next(iter(wrong))
    with pytest.raises(RecipeError):
        replace(Both(), **wrong)


def test_allowed_values_are_accepted() -> None:
    made = Both(schedule="linear", floor=1 / 3, steps=100, window=7, micro=None, kind="b", fast=True, data="x")
    assert made.to_json()["window"] == 7
    assert Both(micro=3, floor=1).micro == 3


def test_a_group_refuses_combinations() -> None:
    with pytest.raises(OptionError, match="give a smaller floor"):
        Both(schedule="linear", floor=1.0)


def test_choices_of_a_registry_are_read_at_each_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES, "flat", 3)
    assert Both(schedule="flat").schedule == "flat"
    assert bind_options({"schedule": "flat"}, options_of(Both), "mine", "-o")["schedule"] == "flat"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schedule": "cosin"}, "-o schedule=cosin: expected one of cosine, linear (an option of mine)"),
        ({"floor": "2"}, r"-o floor=2: expected a number in [0, 1] (an option of mine)"),
        ({"steps": "1.5"}, "-o steps=1.5: expected a whole number (an option of mine)"),
        ({"steps": "0"}, "-o steps=0: expected a whole number, 1 to 100 (an option of mine)"),
        ({"micro": "0"}, "-o micro=0: expected a whole number, 1 or more, or auto or none (an option of mine)"),
        ({"floor": "nan"}, "-o floor=nan: expected a number in [0, 1] (an option of mine)"),
        ({"flor": "0"}, "mine has no option 'flor' (did you mean floor?)"),
    ],
)
def test_typed_values_are_checked_by_the_declaration(given: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        bind_options(given, options_of(Both), "mine", "-o")
    assert str(caught.value).startswith(said)


def test_typed_values_are_bound() -> None:
    given = {"floor": "0.5", "steps": "1e2", "window": "none", "micro": "8", "fast": "yes", "schedule": "linear"}
    bound = bind_options(given, options_of(Both), "mine", "-o")
    assert Both(**bound) == Both(floor=0.5, steps=100, window=None, micro=8, fast=True, schedule="linear")


@pytest.mark.parametrize(("flag", "said"), [("-o", "-o window=0"), ("--", "--window 0")])
def test_a_group_is_built_from_text_and_errors_name_the_flag(flag: str, said: str) -> None:
    assert build_options(Both, {"steps": "5"}, "mine", flag) == Both(steps=5)
    with pytest.raises(OptionError, match=f"^{said}: expected a whole number, 1 or more, or none"):
        build_options(Both, {"window": "0"}, "mine", flag)
    with pytest.raises(OptionError, match="give a smaller floor"):
        build_options(Both, {"schedule": "linear", "floor": "1"}, "mine", flag)
