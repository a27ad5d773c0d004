"""The search space: named genes, and a repair that makes any combination of them valid.

A gene may have a prior, which says where good values are expected. The prior of a gene with an order is a normal
distribution on the gene's scale around `prior`, cut off at the bounds. The prior of a Choice without order gives all
other values together the probability `spread`. A small share of the uniform distribution is added to both, so that no
value is ruled out. An expert's default is a prior too: `SearchSpace.near_default`.

This module knows nothing of strategies, trials or torch.

Sources: Hvarfner et al., πBO (ICLR 2022); Mallik et al., PriorBand (NeurIPS 2023), for defaults as priors.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeAlias

import numpy as np

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int, centre, decodes_to_any
from evo_tune.genome.values import Genome, Value, space_error_prefix
from evo_tune.text import is_encodable

# Share of the uniform distribution in a prior.
UNSURE = 0.05

# Name of the gene that says which kind of model a genome is.
FAMILY = "family"

# Standard deviation of the prior around an expert's default, in unit coordinates.
NEAR = 0.2

# Probability that another value of a Choice without order is better than an expert's default.
OTHER = 0.3

# Index of a gene, and the indices of the genes that its condition names, each with the values that meet it.
Condition: TypeAlias = tuple[int, tuple[tuple[int, Gene, tuple[Value, ...]], ...]]


@dataclass(frozen=True, init=False)
class SearchSpace:
    """Named genes, and a repair that makes any combination of them valid.

    Args:
        repair: Function that takes a genome and returns a valid one (heads must divide width). It must be pure, keep
            every gene inside its bounds, and return its own results unchanged. A second parameter receives the genes,
            which a user may have replaced.
        optional: Genes that are off until the user names them; the repair must work without them.
        genes: Genes by name.

    Raises:
        SpaceError: There are no genes, a value is not a Gene, or a name is used twice or cannot be written as UTF-8.
            Or a condition is wrong, or the repair is not a function.
    """

    genes: dict[str, Gene]
    repair: Callable[..., Genome] | None = field(compare=False)
    optional: dict[str, Gene] = field(compare=False)
    # Whether the repair also takes the genes; computed once, because each genome needs it.
    _gives_genes: bool = field(compare=False, repr=False)
    _conditions: list[Condition] = field(compare=False, repr=False)

    def __init__(
        self, /, repair: Callable[..., Genome] | None = None, optional: Mapping[str, Gene] | None = None, **genes: Gene
    ) -> None:
        if repair is not None and not callable(repair):
            raise SpaceError(f"repair={repair!r}: expected a function from genome to genome")
        if not genes:
            raise SpaceError("SearchSpace(): expected at least one gene, e.g. lr=Float(1e-4, 1e-2, log=True)")
        optional = {} if optional is None else optional
        if not isinstance(optional, Mapping):
            raise SpaceError(f"optional={optional!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
        for name in optional.keys() & genes.keys():
            raise SpaceError(f"gene {name!r} is given twice, as optional too: give it once")
        for name, gene in {**genes, **optional}.items():
            if not isinstance(gene, Gene):
                raise SpaceError(f"gene {name!r}: {gene!r} is not a Gene; expected Float, Int or Choice")
            if not is_encodable(name):
                raise SpaceError(f"gene {name!r}: its name cannot be written as UTF-8; give it another one")
        try:
            parameters = [] if repair is None else inspect.signature(repair).parameters.values()
        except (TypeError, ValueError):  # a builtin
            parameters = []
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        vars(self).update(genes=dict(genes), repair=repair, optional=dict(optional))  # the class is frozen
        vars(self).update(_gives_genes=len(positional) > 1, _conditions=resolve_conditions(genes, optional))

    def including(self, names: Iterable[str]) -> "SearchSpace":
        """Return the space with the named optional genes switched on; other names are ignored."""
        return self.with_genes({name: self.optional[name] for name in self.optional if name in set(names)})

    def with_genes(self, genes: Mapping[str, Gene], optional: Mapping[str, Gene] | None = None) -> "SearchSpace":
        """Return the space with some genes replaced or added, and the same repair.

        Args:
            genes: Genes by name; an optional gene of the same name is no longer optional.
            optional: Genes that are off, instead of the present ones.

        Raises:
            SpaceError: A condition is wrong.
        """
        optional = self.optional if optional is None else optional
        optional = {name: gene for name, gene in optional.items() if name not in genes}
        genes = {**self.genes, **genes}
        derived = object.__new__(SearchSpace)  # names and repair are checked already, and a run derives many spaces
        vars(derived).update(genes=genes, repair=self.repair, optional=optional)
        vars(derived).update(_gives_genes=self._gives_genes, _conditions=resolve_conditions(genes, optional))
        return derived

    def near_default(self) -> "SearchSpace":
        """Return the space with a prior around the default of each gene that has none, for defaults of an expert.

        A search then begins near the default. The prior loses weight as results come in. A gene that a user replaces
        has no prior, unless the user gives one.
        """
        optional = {name: add_prior(gene) for name, gene in self.optional.items()}
        return self.with_genes({name: add_prior(gene) for name, gene in self.genes.items()}, optional)

    @property
    def names(self) -> tuple[str, ...]:
        """Gene names, in the order of the unit coordinates."""
        return tuple(self.genes)

    @property
    def size(self) -> float:
        """Upper bound on the number of different genomes (the repair may map several to one)."""
        sizes = [gene.size for gene in self.genes.values()]
        return math.inf if math.inf in sizes else math.prod(sizes)  # a product may be too large for a float

    def sample(self, rng: np.random.Generator) -> Genome:
        """Return a random valid genome, uniform in unit coordinates before repair."""
        return self.snap(rng.random(len(self.genes)))

    def sample_prior(self, rng: np.random.Generator) -> Genome:
        """Return a random valid genome from the genes' priors; genes without a prior are uniform as in `sample`."""
        return self.snap(sample_units(self.genes, rng))

    def snap(self, units: Sequence[float] | np.ndarray) -> Genome:
        """Return the valid genome at unit coordinates, decoded and repaired.

        Args:
            units: One coordinate per gene, shape (genes,).

        Raises:
            SpaceError: The repair raised an exception or returned an invalid genome.
        """
        genome = {name: gene.decode(float(u)) for (name, gene), u in zip(self.genes.items(), units, strict=True)}
        return self._repair_genome(genome)

    def encode(self, genome: Mapping[str, Value]) -> np.ndarray:
        """Return the unit coordinates of a valid genome, shape (genes,), float64."""
        return np.array([gene.encode(genome[name]) for name, gene in self.genes.items()], dtype=np.float64)

    def to_features(self, units: np.ndarray) -> np.ndarray:
        """Return genomes as numbers for a model without categories, shape (points, features), all in [0, 1].

        A gene with an order is one feature, its unit coordinate. A Choice without order is one feature per value: 1 for
        the genome's value, 0 for the others.

        Args:
            units: Unit coordinates, shape (points, genes).
        """
        blocks = []
        for gene, column in zip(self.genes.values(), np.asarray(units, dtype=np.float64).T, strict=True):
            count = int(gene.size) if isinstance(gene, Choice) and not gene.ordered else 0
            values = np.minimum(column * count, count - 1).astype(int)
            blocks.append(np.eye(count)[values] if count else column[:, None])
        return np.concatenate(blocks, axis=1)

    def from_features(self, features: Sequence[float] | np.ndarray) -> Genome:
        """Return the valid genome at features, decoded and repaired; the inverse of `to_features`.

        A Choice without order gets the value with the highest feature, so features between 0 and 1 are allowed.

        Args:
            features: Features of one genome, shape (features,).

        Raises:
            SpaceError: The repair raised an exception or returned an invalid genome.
        """
        units, start = [], 0
        for gene in self.genes.values():
            count = int(gene.size) if isinstance(gene, Choice) and not gene.ordered else 0
            block = np.asarray(features[start : start + max(1, count)])
            units.append(centre(int(block.argmax()), count) if count else float(np.clip(block[0], 0.0, 1.0)))
            start += len(block)
        return self.snap(units)

    @cached_property
    def unordered(self) -> np.ndarray:
        """Whether each gene is a Choice without order, shape (genes,)."""
        return np.array([not has_order(gene) for gene in self.genes.values()])

    @property
    def conditional(self) -> np.ndarray:
        """Whether each gene has a condition, shape (genes,)."""
        return np.isin(np.arange(len(self.genes)), [place for place, _ in self._conditions])

    @cached_property
    def has_priors(self) -> bool:
        """Whether a gene has a prior."""
        return any(gene.prior is not None for gene in self.genes.values())

    @property
    def branching(self) -> list[int]:
        """Indices of the genes that conditions of others name."""
        return sorted({required for _, needed in self._conditions for required, *_ in needed})

    def active(self, units: np.ndarray) -> np.ndarray:
        """Return whether each gene is active, before any repair.

        Args:
            units: Unit coordinates, shape (points, genes).

        Returns:
            Shape (points, genes).
        """
        mask = np.ones(units.shape, dtype=bool)
        for place, needed in self._conditions:
            for required, gene, values in needed:
                mask[:, place] &= mask[:, required] & decodes_to_any(gene, values, units[:, required])
        return mask

    def default(self) -> Genome:
        """Return the repaired genome of all genes' defaults."""
        return self._repair_genome({name: gene.middle() for name, gene in self.genes.items()})

    def family_defaults(self) -> list[Genome]:
        """Return the default genome of each family of models: of each value of a gene called `family`, if there is one.

        A search tries all of them first, since results of one family say nothing of another.
        """
        gene = self.genes.get(FAMILY)
        values = gene.values if isinstance(gene, Choice) else ()
        return [self.check({FAMILY: value}, fill_defaults=True) for value in values]

    def check(self, genome: Mapping[str, object], fill_defaults: bool = False) -> Genome:
        """Check a user's genome; return it with the genes' own types, repaired.

        Args:
            genome: Values as read from a file or the command line.
            fill_defaults: Whether missing genes get their defaults instead of an error.

        Raises:
            SpaceError: A gene is unknown or missing, or a value is not allowed; the message names it.
        """
        unknown = sorted(str(name) for name in set(genome) - set(self.genes))
        if unknown:
            raise SpaceError(f"unknown gene {', '.join(unknown)}: expected {', '.join(self.genes)}")
        missing = [name for name in self.genes if name not in genome]
        if missing and not fill_defaults:
            raise SpaceError(f"missing gene {', '.join(missing)}: give it, or accept defaults (--fill-defaults)")
        checked: Genome = {}
        for name, gene in self.genes.items():
            with space_error_prefix(f"gene {name}"):
                checked[name] = gene.check(genome[name]) if name in genome else gene.middle()
        return self._repair_genome(checked)

    def parse(self, texts: Mapping[str, str]) -> Genome:
        """Return typed texts as values of their genes; unknown names are kept, and `check` reports them.

        Raises:
            SpaceError: A text is not an allowed value of its gene.
        """
        genome: Genome = {}
        for name, text in texts.items():
            with space_error_prefix(f"gene {name}"):
                genome[name] = self.genes[name].parse(text) if name in self.genes else text
        return genome

    def grid(self) -> Iterator[Genome]:
        """Yield every genome of a finite space, in order, repaired (so some may come twice).

        Raises:
            SpaceError: The space has a Float.
        """
        if self.size == math.inf:
            raise SpaceError("a space with a Float has no grid")
        values = []
        for gene in self.genes.values():
            if isinstance(gene, Int) and gene.log:
                gene = Int(gene.low, gene.high)  # linear, so that equal cells yield each value once
            values.append([gene.decode(centre(index, int(gene.size))) for index in range(int(gene.size))])
        for cell in itertools.product(*values):
            yield self._repair_genome(dict(zip(self.genes, cell, strict=True)))

    def _repair_genome(self, genome: Genome) -> Genome:
        genome = self._reset_inactive(genome)
        if self.repair is None:
            return genome
        try:
            repaired = self.repair(dict(genome), self.genes) if self._gives_genes else self.repair(dict(genome))
        except Exception as error:
            raise SpaceError(f"repair({genome}) raised {type(error).__name__}: {error}") from error
        if not isinstance(repaired, dict) or set(repaired) != set(genome):
            raise SpaceError(f"repair must return a genome with the genes {', '.join(genome)}; got {repaired!r}")
        with space_error_prefix(f"repair({genome}) left the space"):
            # A value that the repair passes on is checked already. Others may be of another type or out of range.
            checked = {
                name: value if (value := repaired[name]) is genome[name] else gene.check(value)
                for name, gene in self.genes.items()
            }
            return self._reset_inactive(checked)

    def _reset_inactive(self, genome: Genome) -> Genome:
        """Return the genome with its inactive genes set to their defaults."""
        inactive = inactive_genes(genome, self.genes, self._conditions)
        return {**genome, **{name: self.genes[name].middle() for name in inactive}}

    def describe(self) -> dict[str, Any]:
        """Return the genes as plain data for the manifest; the repair is code and stays in the evaluator."""
        return {name: gene.describe() for name, gene in self.genes.items()}


def add_prior(gene: Gene) -> Gene:
    """Return a gene with a prior around its default; the same gene if it has a prior, one value or no default."""
    if gene.prior is not None or gene.default is None or gene.size <= 1:
        return gene
    if not has_order(gene):
        spread = OTHER
    elif getattr(gene, "log", False):
        assert isinstance(gene, Float | Int)
        spread = (gene.high / gene.low) ** NEAR
    else:
        spread = NEAR * _range(gene)
    return replace(gene, prior=gene.default, spread=float(f"{spread:.3g}"))  # type: ignore[type-var]


def width(gene: Gene) -> float:
    """Return the standard deviation of the prior of a gene with an order, in unit coordinates."""
    assert gene.spread is not None
    if getattr(gene, "log", False):
        assert isinstance(gene, Float | Int)
        return math.log(gene.spread) / (math.log(gene.high) - math.log(gene.low))
    return gene.spread / _range(gene)


def sample_units(genes: Mapping[str, Gene], rng: np.random.Generator) -> np.ndarray:
    """Return random unit coordinates from the genes' priors, uniform without a prior, shape (genes,)."""
    units = rng.random(len(genes))
    for place, gene in enumerate(genes.values()):
        if gene.prior is None or rng.random() < UNSURE:
            continue
        middle = gene.encode(gene.prior)
        if has_order(gene):
            draws = middle + width(gene) * rng.normal(size=64)
            inside = draws[(draws >= 0.0) & (draws <= 1.0)]
            units[place] = inside[0] if len(inside) else middle
        else:
            assert gene.spread is not None
            units[place] = gene.mutate(middle, rng, 1.0) if rng.random() < gene.spread else middle
    return units


def log_prior(genes: Mapping[str, Gene], units: np.ndarray) -> np.ndarray:
    """Return the log density of points under the priors, relative to that of the priors' middle, shape (points,).

    Args:
        genes: Genes by name.
        units: Unit coordinates, shape (points, genes).
    """
    total = np.zeros(len(units))
    for place, gene in enumerate(genes.values()):
        if gene.prior is None:
            continue
        middle = gene.encode(gene.prior)
        if has_order(gene):
            share = np.exp(-0.5 * ((units[:, place] - middle) / width(gene)) ** 2)
        else:
            assert gene.spread is not None
            others_density = gene.spread / (1.0 - gene.spread) / max(1, gene.size - 1)
            share = np.where(decodes_to_any(gene, (gene.prior,), units[:, place]), 1.0, others_density)
        total += np.log((1.0 - UNSURE) * share + UNSURE)
    return total


def log_prior_gradient(genes: Mapping[str, Gene], units: np.ndarray) -> np.ndarray:
    """Return the gradient of `log_prior` by the unit coordinates, both of shape (points, genes)."""
    gradient = np.zeros(units.shape)
    for place, gene in enumerate(genes.values()):
        if gene.prior is not None and has_order(gene):
            z = (units[:, place] - gene.encode(gene.prior)) / width(gene)
            density = (1.0 - UNSURE) * np.exp(-0.5 * z**2)
            gradient[:, place] = -density * z / (density + UNSURE) / width(gene)
    return gradient


def has_order(gene: Gene) -> bool:
    """Return whether the values of a gene have an order."""
    return not isinstance(gene, Choice) or gene.ordered


def _range(gene: Gene) -> float:
    """Return the length of the range of a linear gene with an order, in the unit of its spread."""
    if isinstance(gene, Float):
        return gene.high - gene.low
    return getattr(gene, "step", 1) * gene.size


def resolve_conditions(genes: Mapping[str, Gene], optional: Mapping[str, Gene]) -> list[Condition]:
    """Return the genes with a condition, each after those that its condition names.

    A condition on an optional gene that is off counts as met.

    Args:
        genes: Genes of a space by name.
        optional: Other genes that conditions may name.

    Raises:
        SpaceError: A condition names an unknown gene or value, or conditions are circular.
    """
    every, required_by = {**genes, **optional}, dict[str, list[str]]()
    for name, gene in every.items():
        required_by[name] = [required for required, _ in gene.when or ()]
        for required, values in gene.when or ():
            if required not in every:
                expected = ", ".join(every)
                raise SpaceError(f"gene {name}: when {required}=…: there is no gene {required!r}; expected {expected}")
            for value in values:
                with space_error_prefix(f"gene {name}: when {required}"):
                    every[required].check(value)
    try:
        order = list(TopologicalSorter(required_by).static_order())
    except CycleError as error:
        circle = error.args[1]
        raise SpaceError(f"gene {circle[0]}: when: {' needs '.join(circle)}: expected no circle") from None
    places = {name: place for place, name in enumerate(genes)}
    conditions = []
    for name in order:
        conditions_of = every[name].when or ()
        needed = [(places[gene], genes[gene], values) for gene, values in conditions_of if gene in genes]
        if name in genes and needed:
            conditions.append((places[name], tuple(needed)))
    return conditions


def inactive_genes(genome: Mapping[str, Any], genes: Mapping[str, Gene], conditions: Iterable[Condition]) -> set[str]:
    """Return the names of a genome's genes whose conditions are not met.

    Args:
        genome: Value of each gene.
        genes: Genes of the space.
        conditions: Those of `resolve_conditions`.
    """
    names, inactive = list(genes), set[str]()
    for place, needed in conditions:
        for required, gene, values in needed:
            met = any(gene.check(value) == genome[names[required]] for value in values)
            if names[required] in inactive or not met:
                inactive.add(names[place])
    return inactive
