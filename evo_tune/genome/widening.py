"""Wider ranges of genes: what a wider gene keeps, one step beyond an end, and the limits of steps that a run may take.

A step multiplies the end of a logarithmic range by three, continues the progression of an ordered choice by one value,
and extends a linear range by half of its width. No step crosses a natural end: zero, one for a share, and the end of a
choice that is not of numbers. This module does not know trials, so it does not decide when a range is widened.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import LARGEST, Choice, Float, Gene, Int, Limits, range_ends
from evo_tune.genome.notation import format_range
from evo_tune.genome.space import resolve_conditions
from evo_tune.genome.values import WHOLE, Value, space_error_prefix

# An end of a range, in unit coordinates: 0 is 'low', 1 is 'high'.
End: TypeAlias = Literal["low", "high"]

ENDS: tuple[End, End] = ("low", "high")

# Lowest and highest value.
Range: TypeAlias = tuple[int | float, int | float]

# Maximum number of times that genes of a run are widened, because each time all genomes are checked again.
WIDENINGS = 100

# Factor of one step of a logarithmic range.
FACTOR = 3

# Maximum number of steps at an end.
STEPS = 8

# Factor by which a run may move an end of a logarithmic range or of an ordered choice, if the gene sets no limit.
FARTHEST = 10


def end_value(gene: Gene, end: End) -> Value:
    """Return the lowest (end 'low') or highest ('high') value of a gene's range."""
    return gene.decode(0.0 if end == "low" else 1.0)


def widening_limits(gene: Gene) -> Range | None:
    """Return the lowest and highest value to which a run may widen a gene by itself; None if it may not.

    An end without a limit in `Gene.widest` may move by a factor of ten if the scale is logarithmic or a choice of
    positive numbers, else by the width of the range. It never moves by more than a factor of ten towards zero, nor by
    more than three quarters of the way to the natural end of a share.
    """
    ends = range_ends(gene)
    if ends is None or gene.size == 1:
        return None
    low, high = ends
    if low > 0 and (isinstance(gene, Choice) or getattr(gene, "log", False)):
        lowest, highest = max(low / FARTHEST, 1 / LARGEST), min(high * FARTHEST, LARGEST)
        usual = min(low, _short(lowest)), max(high, _short(highest))  # a choice may have values beyond
    else:
        room = high - low
        usual = (max(low - room, low / FARTHEST) if low >= 0 else low - room), high + room
        if _is_share(gene):
            usual = usual[0], _short(min(usual[1], 1.0 - (1.0 - high) / 4))
    widest = gene.widest or (None, None)
    return usual[0] if widest[0] is None else widest[0], usual[1] if widest[1] is None else widest[1]


def widen_end(gene: Gene, end: End, within: Range = (-math.inf, math.inf)) -> Gene | None:
    """Return a gene with one step more at an end.

    The default stays, so that the default genome and inactive genes keep their values.

    Args:
        gene: Gene of any kind.
        end: End to move.
        within: Lowest and highest value of the new range. A range stops there, and a choice takes no value beyond.

    Returns:
        None at a natural end, at the limit, and for a choice that is not an ordered one of numbers.
    """
    if range_ends(gene) is None or gene.size == 1:
        return None
    if isinstance(gene, Choice):
        numbers = [value for value in gene.values if isinstance(value, int | float)]
        added = _next_in_progression(numbers if end == "high" else numbers[::-1])
        if added is None or not within[0] <= added <= within[1]:
            return None
        return _with_range(gene, values=(*gene.values, added) if end == "high" else (added, *gene.values))
    assert isinstance(gene, Float | Int)
    moved = _next_float(gene, end) if isinstance(gene, Float) else _next_int(gene, end)
    if moved is None:
        return None
    if not within[0] <= moved <= within[1]:  # stops at the limit, on the steps of the gene
        if isinstance(gene, Float):
            moved = float(min(max(moved, within[0]), within[1]))
        elif moved < gene.low:
            moved = gene.low - gene.step * ((gene.low - math.ceil(within[0])) // gene.step)
        else:
            moved = gene.low + gene.step * ((math.floor(within[1]) - gene.low) // gene.step)
    if gene.low <= moved if end == "low" else moved <= gene.high:
        return None
    changed: dict[str, Any] = {end: moved}
    try:
        return _with_range(gene, **changed)
    except SpaceError:  # more values than a gene may have
        return None


def widen_to_limits(gene: Gene, limits: Range | None) -> Gene:
    """Return a gene with all steps up to its limits; the gene itself if it has none."""
    for end in ENDS if limits is not None else ():
        gene = [gene, *widening_steps(gene, end, limits)][-1]
    return gene


def widen_to_value(gene: Gene, value: object, limits: Range | None) -> Gene:
    """Return a gene with the fewest steps at one end that include a value; the gene itself if it has the value.

    Raises:
        SpaceError: No step up to the limits includes it.
    """
    wider_genes = (wider for end in ENDS for wider in widening_steps(gene, end, limits))
    try:
        gene.check(value)
        return gene
    except SpaceError as error:
        for wider in wider_genes:
            with contextlib.suppress(SpaceError):
                wider.check(value)
                return wider
        widest = "" if limits is None else f"; the run widens its range to [{limits[0]:g}, {limits[1]:g}] at most"
        raise SpaceError(f"{error}{widest}") from None


def widening_steps(gene: Gene, end: End, limits: Range | None) -> Iterator[Gene]:
    """Yield a gene after each step at an end up to its limits, at most STEPS of them; none without limits."""
    for _ in range(STEPS if limits is not None else 0):
        wider = widen_end(gene, end, limits or (0, 0))
        if wider is None:
            return
        gene = wider
        yield gene


def widen_genes(genes: Mapping[str, Gene], wider_genes: Mapping[str, Gene]) -> dict[str, Gene]:
    """Return the genes of a space with some of them widened, in the same order.

    A gene keeps all of its values, so that earlier trials stay valid. Its kind, scale, order and condition cannot
    change.

    Args:
        genes: Current genes by name.
        wider_genes: Wider genes by name.

    Raises:
        SpaceError: A gene is unknown, has another kind, scale, order or condition, is not wider, or loses a value.
    """
    for name, gene in wider_genes.items():
        if name not in genes:
            raise SpaceError(f"--gene {name}: expected a gene of the run: {', '.join(genes)}")
        with space_error_prefix(f"--gene {name}"):
            _check_wider(genes[name], gene)
    new_genes = {**genes, **wider_genes}
    resolve_conditions(new_genes, {})
    return new_genes


def _check_wider(old: Gene, new: Gene) -> None:
    kinds = [(type(gene), getattr(gene, "log", None), getattr(gene, "ordered", None)) for gene in (old, new)]
    old_range, new_range = format_range(old), format_range(new)
    if kinds[0] != kinds[1]:
        raise SpaceError(f"{new_range} is of another kind than {old_range}: a run keeps kind, scale and order")
    if new.when != old.when:
        raise SpaceError("'when' cannot change in a run: leave it out")
    lost: list[Value]
    if isinstance(old, Choice) and isinstance(new, Choice):
        had, has = ([(type(value), value) for value in gene.values] for gene in (old, new))
        if odd := [value for kind, value in has if kind not in {kind for kind, _ in had}]:
            raise SpaceError(f"{odd[0]!r} is of another type than {', '.join(map(repr, old.values))}")
        common = [value_pair for value_pair in has if value_pair in had]
        if old.ordered and len(common) == len(had) and common != had:
            raise SpaceError(f"{new_range} has another order than {old_range}")
        lost, same = [value for kind, value in had if (kind, value) not in common], new.size == old.size
    else:
        assert isinstance(old, Float | Int)
        assert isinstance(new, Float | Int)
        step, new_step = getattr(old, "step", 0), getattr(new, "step", 0)
        samples = [old.low, min(old.low + step, old.high), old.high]
        lost = [n for n in samples if not new.low <= n <= new.high or (new_step and (n - new.low) % new_step)]
        same = (old.low, old.high, step) == (new.low, new.high, new_step)
    if lost:
        raise SpaceError(f"{new_range} has no {lost[0]!r}, which {old_range} has: a range can only be widened")
    if same:
        raise SpaceError(f"it is {old_range} as it is: expected a wider range")


def _short(value: float, digits: int = 12) -> float:
    """Return a computed end without the noise of floating point: 3e-05 for 3e-4 / 10."""
    return float(f"{value:.{digits}g}")


def _with_range(gene: Gene, **changed: Any) -> Gene:
    """Return the gene with a wider range, its own default, and limits that include the range."""
    wide = replace(gene, **changed, default=None, prior=None, spread=None, widest=None)  # type: ignore[type-var]
    hints = {"default": wide.check(gene.middle()), "prior": gene.prior, "spread": gene.spread}
    return with_limits(replace(wide, **hints), gene.widest)  # type: ignore[type-var]


def with_limits(gene: Gene, limits: Limits | None) -> Gene:
    """Return a gene with these limits, moved where its range goes beyond them; unchanged if it is not of numbers."""
    ends = range_ends(gene)
    if limits is not None and ends is not None:
        low, high = limits
        limits = (None if low is None else min(low, ends[0]), None if high is None else max(high, ends[1]))
    return replace(gene, widest=limits if ends is not None else None)  # type: ignore[type-var]


def _next_float(gene: Float, end: End) -> float | None:
    """Return the next end of a real range; None at a natural end."""
    low, high, half = gene.low, gene.high, (gene.high - gene.low) / 2
    is_share = _is_share(gene)
    if (end == "high" and high == 1.0 and is_share) or (end == "low" and low == 0.0):
        return None
    if gene.log:
        moved = low / FACTOR if end == "low" else high * FACTOR
    elif end == "low":
        moved = low - (min(half, low / 2) if low > 0.0 else half)
    else:
        moved = high + (min(half, (1.0 - high) / 2) if is_share else half)
    return _short(moved, 6 if gene.log else 12) if 1 / LARGEST <= abs(moved) <= LARGEST else None


def _is_share(gene: Gene) -> bool:
    """Return whether a real gene's range is within 0 and 1, which are then its natural ends."""
    return isinstance(gene, Float) and gene.low >= 0.0 and gene.high <= 1.0


def _next_int(gene: Int, end: End) -> int | None:
    """Return the next end of a range of whole numbers; None at a natural end."""
    if end == "low" and gene.low in (0, 1):
        return None
    if gene.log:
        moved = max(1, gene.low // FACTOR) if end == "low" else gene.high * FACTOR
    else:
        room = gene.step * max(1, (gene.size - 1) // 2)
        moved = gene.low - room if end == "low" else gene.high + room
        if gene.low > 0 and moved < 1:
            moved = 1 + (gene.low - 1) % gene.step
    return moved if moved in WHOLE else None


def _next_in_progression(values: Sequence[int | float]) -> int | float | None:
    """Return the value that continues a progression after its last value; None if there is no sensible one.

    The ratio of the last two values is kept, or their difference where they have no positive ratio. Whole numbers stay
    multiples of the largest factor that all share: widths stay multiples of 64.
    """
    before, last = values[-2:]
    rises = last > before
    moved = last * last / before if before and last / before > 0 else 2.0 * last - before
    if min(values) >= 0 and moved <= 0:
        return None
    added: int | float = _short(moved)
    if all(type(value) is int for value in values):
        if not abs(moved) < 2.0**62:
            return None
        step = math.gcd(*(int(value) for value in values))
        added = int(moved) if moved == int(moved) else step * round(moved / step)
        if last > 0 and added == 0:
            return None
    elif min(values) >= 0 and max(values) <= 1 <= moved:  # shares, such as momenta
        return None
    goes_on = added > last if rises else added < last
    return added if goes_on and abs(added) <= LARGEST and added not in values else None
