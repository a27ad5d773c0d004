"""Typed options: what is declared, what is typed, and what is said when they do not agree."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import OptionError
from evo_tune.options.binding import (
    bind_options,
    call_with_declared_options,
    did_you_mean,
    options_of,
    split_assignments,
)

if TYPE_CHECKING:
    from nowhere import Unknown


HALF = np.float64(0.5)


def evaluate(
    genome: Unknown,
    context: Unknown,
    *,
    tokens: int = 1000,
    rate: float = 0.5,
    fast: bool = False,
    data: str | None = None,
    folder: Path = Path("data"),
    mode: Literal["small", "large", 3] = "small",
    limit: int | float | None = None,
    old: Optional[int] = None,  # noqa: UP045  # users write it
    either: float | str = 1.0,
    maybe: str | None = "text",
    bare=7,
    plain=None,
    path=Path("data"),
    scale=HALF,
) -> None: ...


OPTIONS = options_of(evaluate)


def bound(**given: Any) -> dict[str, Any]:
    return bind_options(given, OPTIONS, "my_task", "-o")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("tokens", "5", 5),
        ("tokens", "-5", -5),
        ("tokens", "1e5", 100_000),
        ("tokens", "5.0", 5),
        ("tokens", " 7 ", 7),
        ("tokens", 5.0, 5),
        ("tokens", 2**60 + 1, 2**60 + 1),
        ("tokens", str(2**60 + 1), 2**60 + 1),
        ("rate", "3e-4", 3e-4),
        ("rate", "1", 1.0),
        ("rate", 1, 1.0),
        ("fast", "true", True),
        ("fast", "No", False),
        ("fast", "1", True),
        ("fast", False, False),
        ("data", "a b.txt", "a b.txt"),
        ("data", "none", None),
        ("data", None, None),
        ("folder", "here", "here"),
        ("mode", "large", "large"),
        ("mode", "3", 3),
        ("limit", "2", 2),
        ("limit", "2.5", 2.5),
        ("limit", "", None),
        ("maybe", "", ""),
        ("maybe", "none", None),
        ("tokens", np.int64(2**60 + 1), 2**60 + 1),
        ("path", "here", "here"),
        ("scale", "1", 1.0),
        ("old", "3", 3),
        ("old", "None", None),
        ("either", "2", 2.0),
        ("either", "two", "two"),
        ("bare", "8", 8),
        ("plain", "text", "text"),
    ],
)
def test_text_is_converted_to_the_declared_type(name: str, text: object, value: object) -> None:
    result = bound(**{name: text})[name]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("tokens", "many", "a whole number"),
        ("tokens", "1.5", "a whole number"),
        ("tokens", "inf", "a whole number"),
        ("tokens", "nan", "a whole number"),
        ("tokens", "", "a whole number"),
        ("tokens", "²", "a whole number"),
        ("tokens", True, "a whole number"),
        ("rate", "fast", "a number"),
        ("rate", True, "a number"),
        ("fast", "maybe", "true or false"),
        ("fast", "2", "true or false"),
        ("data", 5, "text or none"),
        ("mode", "medium", "small or large or 3"),
        ("limit", "lots", "a whole number or a number or none"),
        ("bare", "x", "a whole number"),
    ],
)
def test_a_wrong_value_is_refused_with_the_expected_kind(name: str, text: object, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        bound(**{name: text})
    assert str(caught.value) == f"-o {name}={text}: expected {expected} (an option of my_task)"


def test_a_refused_value_of_any_length_gives_a_short_error() -> None:
    with pytest.raises(OptionError, match="x…: expected") as caught:
        bound(tokens="x" * 10**6)
    assert len(str(caught.value)) < 500


def test_missing_options_keep_their_defaults() -> None:
    assert bound() == {
        "tokens": 1000,
        "rate": 0.5,
        "fast": False,
        "data": None,
        "folder": "data",  # plain data, for the manifest
        "mode": "small",
        "limit": None,
        "old": None,
        "either": 1.0,
        "maybe": "text",
        "bare": 7,
        "plain": None,
        "path": "data",
        "scale": 0.5,
    }


def test_an_unknown_option_is_named_with_a_suggestion() -> None:
    with pytest.raises(OptionError, match=r"my_task has no option 'token' \(did you mean tokens\?\): expected one of"):
        bound(token="5")
    with pytest.raises(OptionError, match="expected one of none"):
        bind_options({"x": "1"}, {}, "my_task", "-o")


def test_a_missing_required_option_is_refused() -> None:
    def needs(*, data: str) -> None: ...

    with pytest.raises(OptionError, match=r"my_task needs -o data=… \(text\)"):
        bind_options({}, options_of(needs), "my_task", "-o")


@given(st.integers())
def test_whole_numbers_are_exact(number: int) -> None:
    assert bound(tokens=number)["tokens"] == number
    assert bound(tokens=str(number))["tokens"] == number


@given(st.floats(allow_nan=False))
def test_numbers_are_exact(number: float) -> None:
    assert bound(rate=repr(number))["rate"] == number


@given(st.text(max_size=20))
def test_any_text_raises_option_errors_only(text: str) -> None:
    for name in OPTIONS:
        with contextlib.suppress(OptionError):
            bound(**{name: text})


def test_the_kind_of_an_option_is_in_words() -> None:
    assert OPTIONS["tokens"].kind == "a whole number"
    assert OPTIONS["mode"].kind == "small or large or 3"
    assert OPTIONS["data"].kind == "text or none"


@dataclass(frozen=True)
class Fields:
    kind: ClassVar[str] = "x"
    count: int = 3
    folder: Path = field(default_factory=lambda: Path("a"))
    derived: int = field(init=False, default=0)


def test_fields_of_a_dataclass_are_options() -> None:
    options = options_of(Fields)
    assert list(options) == ["count", "folder"]
    assert not options["folder"].required
    assert bind_options({"count": "4"}, options, "strategy x", "-s") == {"count": 4, "folder": "a"}


def test_an_unreadable_type_is_named() -> None:
    def odd(*, data: Unknown = 1) -> None: ...

    with pytest.raises(OptionError, match=r"data.*Unknown"):
        options_of(odd)

    made = dataclasses.make_dataclass("Odd", [("data", "Unknown", 1)])
    with pytest.raises(OptionError, match=r"Odd.*Unknown"):
        options_of(made)


class Own:
    pass


def with_options(**declared: tuple[Any, Any]) -> Callable[..., None]:
    """Return a function with keyword-only options, each given as annotation and default."""

    def made() -> None: ...

    signature = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=wanted)
        for name, (wanted, default) in declared.items()
    ]
    made.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("default", [[1], (), {}, Own(), object(), np.ones(2), np.int64(1), 1j, b"x", len])
@pytest.mark.parametrize("wanted", [inspect.Parameter.empty, int])
def test_a_default_that_is_not_plain_data_is_refused(default: object, wanted: object) -> None:
    said = f"option data: its default is of type {type(default).__name__}: expected a number, text, bool, None or Path"
    with pytest.raises(OptionError, match=re.escape(said)):
        options_of(with_options(data=(wanted, default)))


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (list, "list"),
        (list[int], "list[int]"),
        (dict, "dict"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Own, "Own"),
        (int | Own, "a whole number or Own"),
        (list | None, "list or none"),
        (Literal["a", b"b"], "a or b'b'"),
        (Any, "Any"),
        ([int], "[<class 'int'>]"),
        (None, "None"),
    ],
)
def test_a_type_that_cannot_be_typed_is_refused(wanted: object, named: str) -> None:
    with pytest.raises(OptionError, match=f"option data: its type .*{re.escape(named)} is none that can be typed"):
        options_of(with_options(data=(wanted, None)))
    fields = dataclasses.make_dataclass("Made", [("data", wanted, None)])
    if wanted is not None and wanted != [int]:
        with pytest.raises(OptionError, match="option data: its type"):
            options_of(fields)


@pytest.mark.parametrize("given", ["a=1", [("a", 1)], 5])
def test_options_that_are_not_a_dict_are_refused(given: Any) -> None:
    with pytest.raises(OptionError, match=r"options of my_task: .* expected a dict"):
        bind_options(given, OPTIONS, "my_task", "-o")


def test_a_function_gets_the_options_that_it_declares() -> None:
    given = {"tokens": 5, "rate": 0.1, "genome": "never"}

    def keyword(*, tokens: int) -> object:
        return tokens

    def plain(tokens: int = 0, more: int = 1) -> object:
        return tokens, more

    def after(genome: object, rate: float = 0.0) -> object:
        return genome, rate

    def everything(**options: object) -> object:
        return options

    assert call_with_declared_options(keyword, given) == 5
    assert call_with_declared_options(plain, given) == (5, 1)
    assert call_with_declared_options(after, given, "mine") == ("mine", 0.1)
    assert call_with_declared_options(everything, given) == given
    assert call_with_declared_options(lambda: 1, given) == 1


@pytest.mark.parametrize(("texts", "found"), [([], {}), (["a=1", "b=x=y", "c="], {"a": "1", "b": "x=y", "c": ""})])
def test_assignments_are_split_at_the_first_sign(texts: list[str], found: dict[str, str]) -> None:
    assert split_assignments(texts, "-o") == found


@pytest.mark.parametrize(
    ("texts", "said"),
    [(["a"], "-o a: expected -o NAME=VALUE"), (["=1"], "-o =1: expected"), (["a=1", "a=2"], "-o a is given twice")],
)
def test_malformed_assignments_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        split_assignments(texts, "-o")


def test_only_a_close_name_is_suggested() -> None:
    assert did_you_mean("toknes", ["tokens", "rate"]) == " (did you mean tokens?)"
    assert did_you_mean("zzz", ["tokens", "rate"]) == ""


def test_a_function_without_options_has_none() -> None:
    functions: list[Callable[..., Any]] = [lambda genome, context: None, lambda *args: None]
    assert [options_of(function) for function in functions] == [{}, {}]
