"""The small language of `--gene NAME=`: a gene as people type it."""

from __future__ import annotations

import re
from collections.abc import Callable

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.values import is_number, read_value

__all__ = ["parse_gene"]


def parse_gene(name: str, text: str) -> Gene:
    """Build a gene from what was typed behind `--gene NAME=`.

    Args:
        name: The gene's name, for messages.
        text: float(0,0.5), log(1e-5,1e-2), int(1,8) or int(32,256,32), choice(a,b), ordered(64,128),
            a|b (ordered, if all are numbers), or a plain value, which fixes the gene.

    Raises:
        SpaceError: It is none of these.
    """

    def _int(low: int, high: int, step: int = 1) -> Int:
        return Int(low, high, step=step)

    match = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", text)
    kind, inside = (match[1], match[2].split(",")) if match else ("fixed", text.split("|"))
    values = [read_value(part.strip()) for part in inside]
    makers: dict[str, Callable[[], Gene]] = {
        "fixed": lambda: Choice(tuple(values), ordered=len(values) > 1 and all(map(is_number, values))),
        "float": lambda: Float(*values, log=False),  # type: ignore[arg-type,misc]  # a third value is refused
        "log": lambda: Float(*values, log=True),  # type: ignore[arg-type,misc]
        "int": lambda: _int(*values),  # type: ignore[arg-type]
        "choice": lambda: Choice(tuple(values)),
        "ordered": lambda: Choice(tuple(values), ordered=True),
    }
    try:
        if kind in makers and "" in values:
            raise SpaceError("a value is empty; expected one, and one between any two commas or bars")
        return makers[kind]()
    except SpaceError as error:
        raise SpaceError(f"--gene {name}={text}: {error}") from None
    except (KeyError, TypeError):
        raise SpaceError(
            f"--gene {name}={text} is not understood: expected float(LOW,HIGH), log(LOW,HIGH), int(LOW,HIGH[,STEP]), "
            "choice(A,B,…), ordered(A,B,…), A|B|… or a fixed value"
        ) from None
