"""Text of any origin: one line, safe to print and to save."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.text import escape_unprintable, from_csv_cell, is_encodable, one_line, to_csv_cell


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\n  two\tthree\r\n", "one two three"),
        ("\x1b[31mred\x1b[0m \a\x00", "\\x1b[31mred\\x1b[0m \\x07\\x00"),
        ("\udcff \x9b é 中 🙂", "\\udcff \\x9b é 中 🙂"),
        ("x" * 401, "x" * 399 + "…"),
        ("x" * 400, "x" * 400),
        ("", ""),
    ],
)
def test_a_text_becomes_one_line_that_is_safe_to_print(text: str, line: str) -> None:
    assert one_line(text) == line
    line.encode()


def test_half_of_a_surrogate_pair_cannot_be_written() -> None:
    assert is_encodable("é 中 🙂")
    assert not is_encodable("a\udcff")


STEERING = (
    "\x1b]52;c;ZXZpbA==\x07",  # write the clipboard
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[H",  # clear the screen
    "\x9b2J",  # the same in one byte of C1
    "\u202egpj.exe\u202c",  # turned around
    "\u2066\u2069\u200f\u061c",
    "".join(chr(0xE0000 + ord(letter)) for letter in "hidden"),  # tags
    "\u2028\u2029\r\n\t\x7f",
    "\ue000\uffff\ufeff\udcff\u00ad",
)

UNSAFE = {"Cc", "Cs", "Cf", "Zl", "Zp", "Co", "Cn"}


@pytest.mark.parametrize("text", STEERING)
def test_nothing_of_what_steers_a_terminal_is_printed(text: str) -> None:
    assert escape_unprintable(text).isprintable()
    assert escape_unprintable(text).isascii() or text.isascii() or "\\u" in escape_unprintable(text)
    assert one_line(f"a{text}b").isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "plain text, \\ and \\n as typed",
        "é e\u0301 中文 العربية हिन्दी 🙂",
        "\u0645\u06cc\u200c\u062e\u0648",
        "👩\u200d🔬 ❤\ufe0f",
        "a\u00a0b",
        "",
    ],
)
def test_ordinary_text_of_every_script_stays(text: str) -> None:
    assert escape_unprintable(text) == text


@given(st.text(st.characters()))
def test_printed_text_holds_nothing_that_a_terminal_would_obey(text: str) -> None:
    made = escape_unprintable(text)
    assert not {unicodedata.category(c) for c in made if c not in "\u200c\u200d"} & UNSAFE
    assert escape_unprintable(made) == made
    made.encode()


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])))
def test_plain_text_is_printed_as_it_is(text: str) -> None:
    assert escape_unprintable(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "\t=1", "\r=1", "\uff1d1", "'=1"])
def test_a_cell_that_a_spreadsheet_would_compute_is_quoted(text: str) -> None:
    made = to_csv_cell(text)
    assert isinstance(made, str)
    assert made.startswith("'")
    assert not text.isprintable() or from_csv_cell(made) == text


@pytest.mark.parametrize("value", [-1, -1.5, None, True, "-1", "+1.5e-3", "a=b", "'quoted'", "", "-", [1]])
def test_other_cells_stay(value: object) -> None:
    assert to_csv_cell(value) == ("'-" if value == "-" else value)


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])))
def test_a_cell_is_read_back_as_it_was(text: str) -> None:
    made = to_csv_cell(text)
    assert isinstance(made, str)
    assert made[:1] not in list("=+-@") or float(made) is not None
    assert from_csv_cell(made) == text
