"""What the benchmark of searches is played on: tables of networks that others trained, and mixed functions.

A problem makes an instance for each seed: a space, what a genome gives, and what is the best there is. A
table is the same for every seed; a function places its optimum anew, anywhere in the space, so that no
method gains by looking in the middle or in the corners first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune import Choice, Float, Int, SearchSpace

Losses = tuple[float, ...]
Result = tuple[Losses | None, Losses | None]
"""What the search is told and what counts, which differ where there is noise; None is a failure."""


@dataclass(frozen=True)
class Instance:
    """What one run is played on.

    Args:
        space: Where to search.
        evaluate: Gives a genome's result.
        regrets: Takes the results of a run in order, and returns the regret after each, shape (evaluations,).
        objectives: Number of losses.
        floor: Regret of a search that saw every cell of a table: above zero only with noise.
        regret: Gives that of a genome which a search recommends, where this is what is counted.
        constraints: Number of values that follow the losses in a result and must not exceed 0.
    """

    space: SearchSpace
    evaluate: Callable[[dict[str, Any]], Result]
    regrets: Callable[[Sequence[Result]], np.ndarray]
    objectives: int = 1
    floor: float = 0.0
    regret: Callable[[dict[str, Any]], float] | None = None
    constraints: int = 0


@dataclass(frozen=True)
class Problem:
    """A named maker of instances.

    Args:
        name: For people.
        group: 'tables', 'noisy', 'seeds', 'one seed', 'functions', 'noise', 'conditions' or 'fronts'.
        instance: Makes the instance of a seed.
    """

    name: str
    group: str
    instance: Callable[[int], Instance]


def regrets(results: Sequence[Result], best: float, median: float) -> np.ndarray:
    """Return the normalised regret after each evaluation: that of the genome which looks best so far.

    (loss - best) / (median - best): 0 is the best there is, 1 the median; infinite until one has neither failed nor
    broken a constraint (a value above 0 after the loss).
    """
    found, told, course = np.inf, np.inf, []
    for seen, true in results:
        if seen is not None and true is not None and seen[0] < told and all(value <= 0.0 for value in seen[1:]):
            told, found = seen[0], true[0]
        course.append((found - best) / (median - best))
    return np.array(course)


def hypervolume(points: np.ndarray) -> float:
    """Return the area that points, shape (points, 2), dominate below the reference (1, 1)."""
    area, lowest = 0.0, 1.0
    for x, y in sorted(points.tolist()):
        if x < 1.0 and y < lowest:
            area += (1.0 - x) * (lowest - y)
            lowest = y
    return area


def function(
    name: str, space: SearchSpace, shape: Callable[..., float | None], noise: float = 0.0, group: str = "functions"
) -> Problem:
    """Return a function as a problem: its lowest value is 0, at an optimum drawn for each seed.

    Args:
        name: For people.
        space: Where to search.
        shape: Takes unit coordinates as a dict of gene to number, and the optimum's; None is a failure.
        noise: Standard deviation of what the search is told, as a share of the median; drawn anew for each training.
        group: See `Problem`.
    """
    names = list(space.genes)

    def instance(seed: int) -> Instance:
        rng = np.random.default_rng([20, seed])
        optimum = dict(zip(names, space.encode(space.sample(rng)), strict=True))

        def true(genome: dict[str, Any]) -> float | None:
            return shape(dict(zip(names, space.encode(genome), strict=True)), optimum)

        draws = [true(space.sample(rng)) for _ in range(999)]
        median = float(np.median([draw for draw in draws if draw is not None]))

        def evaluate(genome: dict[str, Any]) -> Result:
            value = true(genome)
            told = None if value is None else (value + noise * median * rng.standard_normal(),)
            return told, None if value is None else (value,)

        def regret(genome: dict[str, Any]) -> float:
            value = true(genome)
            return np.inf if value is None else value / median

        counted = regret if noise else None  # what looks best and what is recommended may differ
        return Instance(space, evaluate, lambda results: regrets(results, 0.0, median), regret=counted)

    return Problem(name, group, instance)


MIXED = SearchSpace(
    lr=Float(1e-5, 1e-1, log=True),
    wd=Float(0.0, 0.5),
    dropout=Float(0.0, 0.5),
    depth=Int(1, 12),
    width=Choice((32, 64, 128, 256, 512, 1024), ordered=True),
    batch=Choice((8, 16, 32, 64, 128), ordered=True),
    kind=Choice(("a", "b", "c", "d")),
    norm=Choice(("before", "after")),
)
"""Floats, an Int, scales and categories: what a recipe of training looks like."""

REALS = SearchSpace(**{f"x{place}": Float(0.0, 1.0) for place in range(5)}, kind=Choice(("a", "b", "c")))

MANY = SearchSpace(
    **{f"x{place}": Float(0.0, 1.0) for place in range(6)},
    **{f"n{place}": Int(1, 8) for place in range(6)},
    **{f"c{place}": Choice(("a", "b", "c")) for place in range(4)},
)

Units = dict[str, float]


def bowl(u: Units, best: Units) -> float:
    """Every gene by itself: distances squared, and a price for each wrong category."""
    ordered = sum((u[gene] - best[gene]) ** 2 for gene in ("lr", "wd", "dropout", "depth", "width", "batch"))
    return ordered + 0.3 * (u["kind"] != best["kind"]) + 0.1 * (u["norm"] != best["norm"])


def valley(u: Units, best: Units) -> float:
    """A narrow valley: the right lr moves with batch, width and kind, as it does in training."""
    shift = 0.5 * (u["batch"] - best["batch"]) - 0.4 * (u["width"] - best["width"])
    shift += 0.15 * (u["kind"] != best["kind"])
    across = abs(u["lr"] - best["lr"] - shift)
    along = sum((u[gene] - best[gene]) ** 2 for gene in ("batch", "width", "depth", "wd"))
    return 2.0 * across + 0.5 * along + 0.05 * (u["kind"] != best["kind"])


def cliff(u: Units, best: Units) -> float | None:
    """Better and better up to an edge, behind which trainings fail; the edge depends on depth and norm."""
    edge = best["lr"] + 0.03 + 0.3 * (best["depth"] - u["depth"]) * (1.0 if u["norm"] == best["norm"] else 0.5)
    if u["lr"] > edge:
        return None
    slope = abs(u["lr"] - best["lr"]) + abs(u["depth"] - best["depth"])
    return slope + (u["dropout"] - best["dropout"]) ** 2 + 0.2 * abs(u["width"] - best["width"])


def rugged(u: Units, best: Units) -> float:
    """A bowl with ripples, so that most ways down end in a pit."""
    steps = [u[f"x{place}"] - best[f"x{place}"] for place in range(5)]
    waves = sum(2.0 * step**2 + 0.1 * (1.0 - np.cos(6.0 * np.pi * step)) for step in steps)
    return float(waves) + 0.2 * (u["kind"] != best["kind"])


def branches(u: Units, best: Units) -> float:
    """The category says which of the real numbers count."""
    kind = int(3 * u["kind"])
    right = u["kind"] == best["kind"]
    counts = (kind, kind + 1, kind + 2)
    loss = sum((u[f"x{place}"] - (best[f"x{place}"] if right else 0.5)) ** 2 for place in counts)
    return loss + 0.15 * (not right)


def sparse(u: Units, best: Units) -> float:
    """16 genes of which four matter, two of them only together."""
    pair = (u["x0"] - best["x0"]) * (u["n0"] - best["n0"])
    loss = (u["x0"] - best["x0"]) ** 2 + (u["n0"] - best["n0"]) ** 2 + pair
    return loss + (u["x1"] - best["x1"]) ** 2 + 0.3 * (u["c0"] != best["c0"])


FUNCTIONS = [
    function("bowl", MIXED, bowl),
    function("bowl with noise", MIXED, bowl, noise=0.1),
    function("valley", MIXED, valley),
    function("cliff", MIXED, cliff),
    function("rugged", REALS, rugged),
    function("branches", REALS, branches),
    function("sparse", MANY, sparse),
]

NOISY = [
    function("bowl with little noise", MIXED, bowl, noise=0.03, group="noise"),
    function("valley with noise", MIXED, valley, noise=0.1, group="noise"),
    function("rugged with noise", REALS, rugged, noise=0.1, group="noise"),
    function("sparse with noise", MANY, sparse, noise=0.1, group="noise"),
]


# Functions with a condition that the ones above lack. Each is made from a generator, which draws the optimum.

Made = tuple[SearchSpace, Callable[[Units], Losses | None], float]
"""Space, function of unit coordinates, and the lowest loss."""


def condition(name: str, make: Callable[[np.random.Generator], Made], constraints: int = 0) -> Problem:
    """Return a problem from a function that draws its space, its losses and the lowest of them."""

    def instance(seed: int) -> Instance:
        rng = np.random.default_rng([30, seed])
        space, losses, best = make(rng)

        def evaluate(genome: dict[str, Any]) -> Result:
            found = losses(dict(zip(space.genes, space.encode(genome), strict=True)))
            return found, found

        draws = [evaluate(space.sample(rng))[0] for _ in range(999)]
        median = float(np.median([draw[0] for draw in draws if draw and all(value <= 0.0 for value in draw[1:])]))
        return Instance(space, evaluate, lambda results: regrets(results, best, median), constraints=constraints)

    return Problem(name, "conditions", instance)


def floats(count: int) -> SearchSpace:
    """Return a space of real numbers in [0, 1]."""
    return SearchSpace(**{f"x{place}": Float(0.0, 1.0) for place in range(count)})


def sphere(count: int) -> Callable[[np.random.Generator], Made]:
    """Squared distance from a point, of `count` genes."""

    def make(rng: np.random.Generator) -> Made:
        best = rng.random(count)
        return floats(count), lambda u: (float(((np.array([*u.values()]) - best) ** 2).mean()),), 0.0

    return make


def constrained(rng: np.random.Generator) -> Made:
    """Five genes; the lowest point is beyond an active bound, and a band leaves a fifth of the space feasible."""
    best, across, along = rng.uniform(0.25, 0.75, 5), rng.normal(size=5), rng.normal(size=5)
    across /= np.linalg.norm(across)
    along -= across * (along @ across)
    along /= np.linalg.norm(along)

    def losses(u: Units) -> Losses:
        away = np.array([*u.values()]) - best
        loss = ((away - 0.4 * across) ** 2).sum() - 0.16
        return float(loss), float(away @ across), float((away @ along) ** 2 - 0.02)

    return floats(5), losses, 0.0


def memory(rng: np.random.Generator) -> Made:
    """Larger models are better until they are out of memory, as 40 % of the space is; lr moves with the size."""
    space = SearchSpace(
        depth=Int(1, 16),
        width=Choice((32, 48, 64, 96, 128, 192, 256, 384, 512), ordered=True),
        batch=Choice((4, 8, 16, 32, 64, 128, 256, 512), ordered=True),
        lr=Float(1e-5, 1e-1, log=True),
        dropout=Float(0.0, 0.5),
    )
    shares, lr, dropout, centre = rng.dirichlet([4.0] * 3), rng.uniform(0.4, 0.9), rng.random(), rng.uniform(0.2, 0.8)
    sizes = [(d, w, b) for d in range(16) for w in range(9) for b in range(8)]
    units = (np.array(sizes) + 0.5) / (16, 9, 8)
    needed = units @ shares
    edge = float(np.quantile(needed, 0.6))
    quality = 0.6 * (1.0 - needed) + 0.3 * (units[:, 2] - centre) ** 2

    def losses(u: Units) -> Losses | None:
        size = np.array([u["depth"], u["width"], u["batch"]])
        if size @ shares > edge:
            return None
        loss = 0.6 * (1.0 - size @ shares) + 0.3 * (u["batch"] - centre) ** 2
        loss += (u["lr"] - lr + 0.4 * (size @ shares)) ** 2 + 0.2 * (u["dropout"] - dropout) ** 2
        return (float(loss),)

    return space, losses, float(quality[needed <= edge].min())


def memory_of_kinds(rng: np.random.Generator) -> Made:
    """The same with three genes without order, of two to four values, which need memory and change the loss."""
    space, losses, best = memory(rng)
    kinds = {f"kind{place}": Choice(("a", "b", "c", "d")[: 2 + place]) for place in range(3)}
    needed = {name: rng.permutation(np.linspace(0.0, 0.25, len(gene.values))) for name, gene in kinds.items()}
    added = {name: rng.permutation(np.linspace(0.0, 0.12, len(gene.values))) for name, gene in kinds.items()}

    def losses_of_kinds(u: Units) -> Losses | None:
        values = {name: min(int(u[name] * len(gene.values)), len(gene.values) - 1) for name, gene in kinds.items()}
        depth = min(1.0, u["depth"] + sum(float(needed[name][value]) for name, value in values.items()))
        bare = losses(u)
        if bare is None or losses({**u, "depth": depth}) is None:
            return None
        return (bare[0] + sum(float(added[name][value]) for name, value in values.items()),)

    return SearchSpace(**space.genes, **kinds), losses_of_kinds, best


def conditional(rng: np.random.Generator) -> Made:
    """Each kind has three genes of its own; that of the best one counts more, so it looks worse at first."""
    kinds, good = ("a", "b", "c"), int(rng.integers(1, 3))
    own = {f"{kind}{place}": Float(0.0, 1.0, when={"kind": kind}) for kind in kinds for place in range(3)}
    space = SearchSpace(kind=Choice(kinds), x0=Float(0.0, 1.0), x1=Float(0.0, 1.0), **own)
    best = dict(zip(space.genes, rng.random(12), strict=True))

    def losses(u: Units) -> Losses:
        kind = int(3 * u["kind"])
        shared = sum((u[gene] - best[gene]) ** 2 for gene in ("x0", "x1"))
        mine = sum((u[f"{kinds[kind]}{place}"] - best[f"{kinds[kind]}{place}"]) ** 2 for place in range(3))
        return (float(0.3 * shared + (1.5 * mine if kind == good else 0.2 + 0.2 * mine)),)

    return space, losses, 0.0


def few_matter(count: int) -> Callable[[np.random.Generator], Made]:
    """Four of `count` genes matter, two of them only together."""

    def make(rng: np.random.Generator) -> Made:
        genes = [f"x{place}" for place in rng.choice(count, 4, replace=False)]
        best = rng.random(4)

        def losses(u: Units) -> Losses:
            away = np.array([u[gene] for gene in genes]) - best
            return (float((away**2).sum() + away[0] * away[1]),)

        return floats(count), losses, 0.0

    return make


def plateau(rng: np.random.Generator) -> Made:
    """Six whole numbers; the loss changes with every third of them only."""
    best = rng.integers(0, 21, 6)
    space = SearchSpace(**{f"n{place}": Int(0, 20) for place in range(6)})

    def losses(u: Units) -> Losses:
        return (float(sum(abs(int(21 * value) - one) // 3 for value, one in zip(u.values(), best, strict=True))),)

    return space, losses, 0.0


CONDITIONS = [
    condition("sphere, 3 genes", sphere(3)),
    condition("sphere, 8 genes", sphere(8)),
    condition("sphere, 20 genes", sphere(20)),
    condition("active constraint", constrained, constraints=2),
    condition("out of memory", memory),
    condition("out of memory, kinds", memory_of_kinds),
    condition("conditional", conditional),
    condition("4 of 50 genes", few_matter(50)),
    condition("plateau", plateau),
]
