"""Families of models that compete with the Transformer in one search: their genes, the work of a step, and their sizes.

A family is a gene. The genes of a family are active only in its genomes. A run with one family has no gene `family`.
An evaluator names its families and their genes in `FamilyOptions.rivals`. This module knows no data: it gets the
numbers of rows and columns, or of characters.
"""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from evo_tune.errors import OptionError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.options.declare import AUTO, Options, check_integer, option
from evo_tune.training.recipe.hardware.computing import TimeBudget
from evo_tune.training.recipe.models.rules import ShapeConfig

TRANSFORMER, BOOSTING, LINEAR, CONVOLUTION = "transformer", "boosting", "linear", "convolution"

# Steps of a full training without a budget in time, and most steps with one. A step of boosting adds a tree for each
# output; a step of the linear model is `LBFGS_ITERATIONS`.
STEPS = {BOOSTING: 1000, LINEAR: 20}
MOST_STEPS = {BOOSTING: 3000, LINEAR: 50}
LBFGS_ITERATIONS = 10

# Seconds of a unit of each kind of work on one core of a CPU (see `FittedConfig.step_work`).
OF_TREES = {"trees": 2e-5, "histograms": 2e-9, "splits": 1e-8, "moves": 1.3e-8}
FAMILY_COSTS = {**OF_TREES, "iterations": 1e-3, "terms": 4e-9, "entries": 3e-9}

# LightGBM's bins of a column: most of them, and fewest rows of one.
MOST_BINS, BIN_ROWS = 255, 3

# What to do without LightGBM.
REMEDY = "LightGBM is not installed: pip install 'evo-tune[boosting]'"

# Most splits from the root of a tree to a leaf.
DEEPEST = 64


@dataclass(frozen=True, kw_only=True)
class FamilyOptions(Options):
    """Families of models."""

    # Families of the evaluator beside the Transformer, with their genes. The first one of a search is that of the
    # default genome.
    rivals: ClassVar[Mapping[str, Mapping[str, Gene]]] = {}

    families: str = option(
        TRANSFORMER,
        gene=None,
        help="Families of models to search, with commas: transformer, and boosting, linear (tables), linear (texts), "
        "convolution (images); auto: all that are installed",
    )

    def check(self) -> None:
        """Require families that the evaluator has.

        Raises:
            OptionError: One is unknown.
        """
        names = self.families.split(",")
        if names != [AUTO] and (not set(names) <= set(self.every_family) or len(set(names)) < len(names)):
            expected = f"{', '.join(self.every_family)} with commas between them, or {AUTO}"
            raise OptionError(f"-o families={self.families}: expected {expected}")

    @property
    def every_family(self) -> tuple[str, ...]:
        """Families of the evaluator."""
        return (*self.rivals, TRANSFORMER)

    @property
    def reasons_to_leave_out(self) -> dict[str, str]:
        """Families that `auto` leaves out, each with its reason."""
        return {} if BOOSTING not in self.rivals or _has_lightgbm() else {BOOSTING: REMEDY}

    @property
    def family_names(self) -> tuple[str, ...]:
        """Families to search, in the order of `every_family`."""
        names = {*self.families.split(",")}
        if self.families == AUTO:
            names = {*self.every_family} - {*self.reasons_to_leave_out}
        return tuple(name for name in self.every_family if name in names)

    def describe_families(self) -> list[str]:
        """Return a line about each family that `auto` leaves out."""
        reasons = self.reasons_to_leave_out if self.families == AUTO else {}
        return [f"{family} is left out: {reason}" for family, reason in reasons.items()]

    def family_of(self, genome: Mapping[str, Any]) -> str:
        """Return the family of a genome."""
        return str(genome.get("family", self.family_names[0]))

    def family_genes(self, transformer: Mapping[str, Gene], shared: Mapping[str, Gene] = {}) -> dict[str, Gene]:
        """Return the genes of the families to search, under the condition of their family if there are several.

        Args:
            transformer: Genes of the Transformer.
            shared: Genes of all families.

        Raises:
            OptionError: The user asks for boosting, and LightGBM is not installed.
        """
        if BOOSTING in self.family_names and not _has_lightgbm():
            raise OptionError(f"-o families={self.families}: {REMEDY}, or give -o families={AUTO}")
        genes = {TRANSFORMER: transformer, **self.rivals}
        if len(names := self.family_names) == 1:
            return {**shared, **genes[names[0]]}
        conditional = {
            name: replace(gene, when={"family": family})  # type: ignore[type-var]
            for family in names
            for name, gene in genes[family].items()
        }
        return {"family": Choice(names, default=names[0]), **shared, **conditional}


@dataclass(frozen=True, kw_only=True)
class FittedFamilyOptions(FamilyOptions):
    """Families of models, some of them without gradient steps."""

    refit: Literal["none", "validation", "all"] = option(
        "validation",
        gene=None,
        help="Last fit of trees and linear models at the export: none, to the validation rows too, or to all rows; "
        "test scores come from before the test rows are learned",
    )


def _has_lightgbm() -> bool:
    return importlib.util.find_spec("lightgbm") is not None


# The defaults of boosting are LightGBM's; the priors are around what is usual after tuning.
TABLE_RIVALS: dict[str, dict[str, Gene]] = {
    BOOSTING: {
        "shrinkage": Float(0.01, 0.3, log=True, default=0.1, prior=0.05, spread=2.0),
        "leaves": Int(4, 128, log=True, default=31, prior=16, spread=2.5, widest=(2, None)),
        "leaf_rows": Int(2, 100, log=True, default=20, prior=15, spread=2.5),
        "leaf_l2": Float(1e-3, 30.0, log=True, default=1e-3, prior=0.3, spread=10.0),
        "row_share": Float(0.5, 1.0, default=1.0, prior=0.8, spread=0.2),
        "column_share": Float(0.2, 1.0, default=1.0, prior=0.6, spread=0.3),
    },
    LINEAR: {
        "l2": Float(1e-6, 1.0, log=True, default=1e-3),
        "knots": Choice((0, 2, 4, 8, 16), ordered=True, default=4),
    },
}

IMAGE_RIVALS: dict[str, dict[str, Gene]] = {
    CONVOLUTION: {
        "stages": Int(1, 4, default=2),
        "channels": Int(8, 128, log=True, default=16),
    }
}


@dataclass(frozen=True, kw_only=True)
class FittedConfig(ShapeConfig):
    """Shape of a model that is no network.

    Args:
        outputs: Number of classes, or of real numbers.

    Raises:
        RecipeError: A field is no integer, or out of its range.
    """

    outputs: int = option(bounds="[1, inf)")
    family: ClassVar[str]

    @property
    def scores(self) -> int:
        """Number of sums that a model computes: with two classes one, their log-odds."""
        return 1 if self.outputs == 2 else self.outputs

    @property
    def row_bytes(self) -> int:
        """Most bytes for the prediction of a row."""
        raise NotImplementedError

    def step_work(self, genome: Mapping[str, Any], rows: int, judged: int) -> dict[str, float]:
        """Return the work of a step.

        Args:
            genome: Gene values.
            rows: Number of training rows.
            judged: Number of validation rows.
        """
        raise NotImplementedError

    def largest_shape(self, genome: Mapping[str, Any], steps: int) -> "FittedConfig":
        """Return the largest shape after a fit; by default it is known before."""
        return self


@dataclass(frozen=True, kw_only=True)
class TableConfig(FittedConfig):
    """Shape of a model of a table.

    Args:
        outputs: Number of classes, or 1 for a real number.
        numeric: Number of numeric columns.
        categories: Number of categories of each categorical column.
    """

    numeric: int = option(bounds="[0, inf)")
    categories: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "categories", tuple(self.categories))  # JSON has lists only
        for number in self.categories:
            check_integer("categories", number, 0)

    @property
    def columns(self) -> int:
        """Number of columns."""
        return self.numeric + len(self.categories)

    @property
    def positions(self) -> int:
        """Number of categories of all columns, with one more per column for missing ones."""
        return sum(self.categories) + len(self.categories)


@dataclass(frozen=True, kw_only=True)
class TreesConfig(TableConfig):
    """Shape of boosted trees.

    Args:
        trees: Number of trees of all scores.
        nodes: Number of splits and leaves of all trees.
        passing: Number of categories that pass, of all splits by categories.
        levels: Most splits from the root of a tree to a leaf.
    """

    family = BOOSTING
    trees: int = option(0, bounds="[0, inf)")
    nodes: int = option(0, bounds="[0, inf)")
    passing: int = option(0, bounds="[0, inf)")
    levels: int = option(0, bounds=f"[0, {DEEPEST}]")

    @property
    def parameters(self) -> int:
        return self.trees + 6 * self.nodes + self.passing

    @property
    def row_bytes(self) -> int:
        return 16 * self.columns + 80 * self.trees  # ten numbers of 8 bytes for each tree, categories included

    def step_work(self, genome: Mapping[str, Any], rows: int, judged: int) -> dict[str, float]:
        """Return the work of a step, which adds a tree for each score; see `FittedConfig`."""
        chosen, columns = genome["row_share"] * rows, max(1.0, genome["column_share"] * self.columns)
        leaves = max(2.0, min(genome["leaves"], chosen / genome["leaf_rows"]))
        levels = math.log2(leaves)
        return {
            "trees": float(self.scores),
            # Below the root, only the rows of the smaller child of each node are counted.
            "histograms": self.scores * chosen * columns * (1 + levels) / 2,
            "splits": self.scores * columns * leaves * min(MOST_BINS, 1 + rows / BIN_ROWS),
            "moves": self.scores * (rows + judged) * levels,
        }

    def largest_shape(self, genome: Mapping[str, Any], steps: int) -> "TreesConfig":
        trees = steps * self.scores
        return replace(self, trees=trees, nodes=trees * (2 * genome["leaves"] - 1))


@dataclass(frozen=True, kw_only=True)
class LinearConfig(TableConfig):
    """Shape of a linear model.

    Args:
        knots: Number of knots of each numeric column: its effect is a line that may bend there; 0: a line.
    """

    family = LINEAR
    knots: int = option(bounds="[0, 10000]")

    @property
    def terms(self) -> int:
        """Number of terms of a numeric column: its value, whether it is missing, and a bend at each knot."""
        return self.knots + 2

    @property
    def parameters(self) -> int:
        weights = self.scores * (1 + self.numeric * self.terms + self.positions)
        return weights + self.numeric * (self.knots + 2)

    @property
    def row_bytes(self) -> int:
        return 16 * self.numeric * self.terms + 8 * len(self.categories) * (1 + self.scores)

    def step_work(self, genome: Mapping[str, Any], rows: int, judged: int) -> dict[str, float]:
        """Return the work of a step, some L-BFGS iterations; see `FittedConfig`."""
        terms = self.numeric * self.terms + len(self.categories)
        return {"iterations": 1.0, "terms": float(LBFGS_ITERATIONS * terms * self.scores * rows)}


def full_steps(family: str, options: TimeBudget, work: Mapping[str, float]) -> int:
    """Return the steps of a full training: those that fit into a budget in time, or else the family's own number.

    Raises:
        OptionError: The budget is in time, and the cost of a step was not measured.
    """
    if options.seconds is None:
        return STEPS[family]
    return max(1, min(MOST_STEPS[family], round(options.steps_in_time(work))))


def fitted_estimate(
    options: TimeBudget, genome: Mapping[str, Any], config: FittedConfig, work: Mapping[str, float]
) -> dict[str, float]:
    """Return the figures known before training: params, steps, gpu_memory, and seconds if the cost was measured."""
    steps = full_steps(config.family, options, work)
    params = config.largest_shape(genome, steps).parameters
    figures = {"params": float(params), "gpu_memory": 0.0, "steps": float(steps)}
    return {**figures, **options.seconds_estimate(work, steps)}


# Most characters of a text that are read, terms of a model, and weights.
MOST_CHARACTERS, MOST_TERMS, MOST_WEIGHTS = 4000, 1 << 18, 1 << 24

TEXT_RIVALS: dict[str, dict[str, Gene]] = {
    LINEAR: {
        "C": Float(0.1, 1000.0, log=True, default=30.0),
        "word_ngrams": Choice((1, 2, 3), ordered=True, default=2),
        "character_ngrams": Choice((0, 3, 4, 5, 6), ordered=True, default=5),
    }
}


@dataclass(frozen=True, kw_only=True)
class LinearTextConfig(FittedConfig):
    """Shape of a linear model of texts.

    Args:
        word_ngrams: Most words of a term.
        character_ngrams: Most characters of a term inside a word; 0: terms are of words only.
        length: Most characters of a text that are read.
        terms: Number of terms.
    """

    family = LINEAR
    word_ngrams: int = option(bounds="[1, 10]")
    character_ngrams: int = option(bounds="[0, 10]")
    length: int = option(MOST_CHARACTERS, bounds="[1, 1000000]")
    terms: int = option(0, bounds="[0, inf)")

    @property
    def most_terms(self) -> int:
        """Most terms of a model."""
        return min(MOST_TERMS, MOST_WEIGHTS // self.scores)

    @property
    def orders(self) -> int:
        """Number of lengths of terms."""
        return self.word_ngrams + max(0, self.character_ngrams - 1)

    @property
    def parameters(self) -> int:
        return self.terms * (2 + self.scores) + self.scores

    @property
    def row_bytes(self) -> int:
        # Hashes, masks and places of a text's words and characters, and the terms of all lengths.
        return 2 * (self.length + 1) * (64 + 32 * self.orders)

    def step_work(self, genome: Mapping[str, Any], rows: int, judged: int) -> dict[str, float]:
        """Return the work of a step, some L-BFGS iterations.

        Args:
            genome: Gene values.
            rows: Number of characters of the training texts.
            judged: Not used.
        """
        entries = rows * (max(0, self.character_ngrams - 1) + self.word_ngrams / 5)  # a word has some 5 characters
        return {"iterations": 1.0, "entries": float(LBFGS_ITERATIONS * entries * self.scores)}

    def largest_shape(self, genome: Mapping[str, Any], steps: int) -> "LinearTextConfig":
        return replace(self, terms=self.most_terms)
