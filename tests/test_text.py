"""Text of any origin: one line, safe to print and to save."""

from __future__ import annotations

import pytest

from evo_tune.text import is_writable, one_line


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
    assert is_writable("é 中 🙂")
    assert not is_writable("a\udcff")
