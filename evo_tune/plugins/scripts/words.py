"""A command with placeholders, and how a genome is put into it: once it is split into words, so that no value injects.

`{lr}` is a gene's value, `{seed}` and the like what the trial is given, `{name?yes:no}` one of two texts,
`{budget*2000}` the steps of a part of a training; `{{` and `}}` are the braces themselves. It knows neither processes
nor evaluators.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from evo_tune.errors import OptionError
from evo_tune.options.binding import suggest
from evo_tune.text import one_line

__all__ = ["GIVEN", "Words", "filled"]

GIVEN = ("seed", "device", "threads", "budget", "folder", "resume")
"""Placeholders that are no genes: what the trial is given. `resume` is '' where there is nothing to go on from."""

BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
STEPS = re.compile(r"budget\s*\*\s*(\d{1,15})")


class Words:
    """A command as it was typed, split as a POSIX shell would split it.

    Args:
        text: It.
        shell: Keep it in one piece, for a shell; values are then quoted.

    Raises:
        OptionError: A quotation mark is never closed, or there is no word.
    """

    def __init__(self, text: str, shell: bool = False) -> None:
        self.text = text
        self.shell = shell
        try:
            words = shlex.split(text)
        except ValueError as error:
            if not shell:
                raise OptionError(
                    f"the command {_shown(text)} cannot be split into words: {error}; quote it as for a shell"
                ) from None
            words = []
        if not text.strip() or "\0" in text or (not words and not shell):
            raise OptionError(f"the command {_shown(text)}: expected a program and its arguments")
        self.words = [text] if shell else words

    @property
    def names(self) -> list[str]:
        """What its placeholders stand for, in order, each once: genes and what of GIVEN it uses."""
        found = [name for word in self.words for match in BRACES.finditer(word) if (name := _name(match)) is not None]
        return list(dict.fromkeys(found))

    @property
    def genes(self) -> list[str]:
        """Those that are none of GIVEN."""
        return [name for name in self.names if name not in GIVEN]

    def check(self, genes: Iterable[str]) -> None:
        """Require a placeholder for each gene, and a gene for each placeholder.

        Raises:
            OptionError: One is missing; the text says what to do.
        """
        genes = list(genes)
        for name in genes:
            if name in GIVEN:
                raise OptionError(f"--gene {name}: {{{name}}} is what each trial is given; expected another name")
            if name not in self.genes:
                near = suggest(name, self.genes)
                raise OptionError(
                    f"--gene {name}: the command has no {{{name}}}{near}: put it where the value belongs, such as "
                    f"--{name} {{{name}}}"
                )
        for name in self.genes:
            if name not in genes:
                near, shown = suggest(name, [*genes, *GIVEN]), one_line(name, 60)
                raise OptionError(
                    f"{{{shown}}} in the command is no gene{near}: give it as --gene '{shown}=…', use one of "
                    f"{', '.join(f'{{{one}}}' for one in GIVEN)}, or write {{{{ and }}}} for the braces themselves"
                )

    def put(self, values: Mapping[str, Any]) -> list[str]:
        """Return the words with values in place of the placeholders; of a shell's command, the one text.

        A word that consists of placeholders and is left empty by `{name?yes}` is left out.

        Args:
            values: By name; one that is missing leaves its placeholder as it is.
        """
        found = []
        for word in self.words:
            text = BRACES.sub(lambda match: self._value(match, values), word)
            if text or not BRACES.search(word):
                found.append(text)
        return found

    def _value(self, match: re.Match[str], values: Mapping[str, Any]) -> str:
        name = _name(match)
        if name is None:
            return match[0][0]
        if name not in values:
            return match[0]
        value, inside = values[name], match[1]
        steps = STEPS.fullmatch(inside.strip())
        if steps:
            return str(max(1, math.ceil(value * int(steps[1]) - 1e-9)))
        if "?" in inside:
            yes, _, no = inside.partition("?")[2].partition(":")
            return yes if value else no  # the user's own text, not a value
        return shlex.quote(str(value)) if self.shell else str(value)


def filled(text: str, values: Mapping[str, Any], shell: bool = False) -> str:
    """Return a command with a genome in it, as it is typed into a shell.

    Raises:
        OptionError: It is no command.
    """
    words = Words(text, shell).put(values)
    return words[0] if shell else shlex.join(words)


def _name(match: re.Match[str]) -> str | None:
    """Return what a placeholder stands for; None for a doubled brace."""
    if match[1] is None:
        return None
    inside = match[1].strip()
    return "budget" if STEPS.fullmatch(inside) else inside.partition("?")[0].strip()


def _shown(text: str) -> str:
    return repr(one_line(text, 120))
