"""Find metrics in ordinary lines of text, for a script without `--metric`.

A metric is found by its own name, with any separator between its words: `val loss: 2.1` is a value of val_loss. The
module also suggests what a `--metric` could read. It runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from evo_tune.text import one_line

NUMBER = r"[-+]?(?:\d+(?:_\d+)*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|(?:nan|inf(?:inity)?)\b)"
"""A printed number. It may be nan, so that a diverged training does not count with its last finite value."""

WORD = r"[^\W\d_][\w/@-]*"
LABELLED = re.compile(rf"(?<![\w/@-])({WORD}(?: {WORD}){{0,3}})[^\w.+-]+({NUMBER})", re.IGNORECASE)
"""Up to four words, and the number behind them."""

LONGEST = 2000
"""Characters of a line that are searched: the pattern takes quadratic time."""

MOST_SUGGESTIONS = 3
"""Most suggestions."""


KINDS = (
    {"bpb", "cost", "err", "error", "loss", "mae", "mse", "nll", "perplexity", "ppl", "regret", "rmse"},
    {"acc", "accuracy", "auc", "bleu", "f1", "precision", "r2", "recall", "reward", "score"},
)
"""Words of metrics that are minimised, and of those that are maximised."""


@dataclass(frozen=True)
class LabelledNumber:
    """A number in a line of text.

    Args:
        label: Words right before the number.
        value: The number.
        text: Label and number as they were printed.
        before: Text of the line before the label.
    """

    label: str
    value: float
    text: str
    before: str


@dataclass(frozen=True)
class NamedValue:
    """A value of a metric that was found by its name.

    Args:
        value: The value.
        exact: Whether the label is the name alone; otherwise, it ends with the name.
        context: Words before the name, which tell kinds of lines apart: ('train',) in 'train loss 2.1'.
        text: Label and number as they were printed.
        pattern: Pattern for `--metric` that finds this kind of line.
    """

    value: float
    exact: bool
    context: tuple[str, ...]
    text: str
    pattern: str


def labelled_numbers(line: str) -> Iterator[LabelledNumber]:
    """Yield each number of a line that has words before it."""
    line = line[:LONGEST]
    for match in LABELLED.finditer(line):
        yield LabelledNumber(match[1], float(match[2]), match[0].strip(), line[: match.start()])


def find_by_name(line: str, name: str) -> list[NamedValue]:
    """Return the values of a metric in a line, found by its name: the last exact one, or else all.

    Args:
        line: Printed line.
        name: Name of the metric. Case does not count, and '_', '-', '/' and spaces are equal.
    """
    name_words = _words(name)
    if not name_words or name_words[-1] not in line.lower():
        return []
    values: list[NamedValue] = []
    for number in labelled_numbers(line):
        words = _words(number.label)
        exact = words == name_words
        if words[-len(name_words) :] == name_words and (exact or not any(value.exact for value in values)):
            words_before = [*_words(number.before), *words[: -len(name_words)]]
            context = tuple(word for word in words_before if word.isalpha() and len(word) > 2)  # no numbers, no units
            values = [
                *([] if exact else values),
                NamedValue(number.value, exact, context, number.text, _pattern(number)),
            ]
    return values


def suggestions(lines: Iterable[str], name: str) -> list[LabelledNumber]:
    """Return the numbers in lines that may be a metric, the likeliest first.

    A label that shares words with the metric's name is likelier, and then one that has a word of the same kind.

    Args:
        lines: Last lines of the output.
        name: Name of the metric.
    """
    latest = {number.label: number for line in lines for number in labelled_numbers(line)}
    name_words = {*_words(name)}
    alike = {word for kind in KINDS if kind & name_words for word in kind}
    by_time = reversed(latest.values())
    words = {label: {*_words(label)} for label in latest}
    return sorted(
        by_time, key=lambda number: (-len(name_words & words[number.label]), not alike & words[number.label])
    )[:MOST_SUGGESTIONS]


def metric_flag_hint(name: str, texts_with_patterns: Iterable[tuple[str, str]]) -> str:
    """Return 'A' or 'B' with the flag that reads the first one.

    Args:
        name: Name of the metric.
        texts_with_patterns: Printed texts with the patterns that find them, the likeliest first.
    """
    texts, patterns = zip(*texts_with_patterns, strict=True)
    shown = ", ".join(f"'{one_line(text, 60)}'" for text in texts)
    return f"{shown}: add --metric {shlex.quote(one_line(f'{name}={patterns[0]}', 300))}"


def to_pattern(text: str) -> str:
    """Return a text as a pattern that finds it, with any number in place of its numbers."""
    return re.sub(r"\d+", r"\\d+", re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text))


def _pattern(number: LabelledNumber) -> str:
    """Return the pattern of a label, with the word before it if that is on the line."""
    before = re.search(rf"{WORD}[^A-Za-z]*$", number.before)
    return to_pattern((before[0] if before else "") + number.label)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
