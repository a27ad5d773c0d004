"""What an evaluator's file holds.

An evaluator is one Python file with SPACE, OBJECTIVES and `evaluate`, optionally METRICS, TEST, SUPPORTS, `estimate`,
`fingerprint`, `carry` and `export`. Its options are keyword parameters of
`evaluate(genome, context, *, steps=300)`, or a dataclass (of groups, see `options.declare`):
`evaluate(genome, context, options: Options)`, and then the others take the same `options` last. `contract` checks that
shape before anything is trained. This does not find files (see `find`) and knows nothing of strategies or stores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from evo_tune.errors import EvoTuneError, OptionError, PluginError
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective
from evo_tune.genome.values import Genome
from evo_tune.options.binding import bind, call_with, options_of
from evo_tune.options.declare import Option, Options
from evo_tune.plugins.code import source_hash
from evo_tune.plugins.context import Context
from evo_tune.plugins.contract import SUPPORTS, check_shape, is_test, positional, where_given
from evo_tune.plugins.messages import is_number, what_of, where_of
from evo_tune.plugins.offers import offered
from evo_tune.text import one_line

__all__ = ["SUPPORTS", "Evaluator", "what_of", "where_of"]


CARRIED = ("genome", "options", "rows", "remarks", "found", "target", "fits")
"""What `carry` returns, by name: see `training.carry_language`, which language_model's is."""


@dataclass(frozen=True)
class Evaluator:
    """An evaluator's file, loaded and checked.

    Args:
        module: The loaded module.
        name: Short name, for people.
        reference: How the manifest names it: 'bundled:NAME', 'entry:NAME' or a path as the user gave it.
        path: The file, absolute: what a worker imports.
        origin: Where it was found, for lists: 'bundled', 'file' or 'entry point'; 'command' or 'function' for what is
            no file of an evaluator, and has no objectives of its own.
        code: The files whose change would change results, where that is not `path` alone.
    """

    module: ModuleType
    name: str
    reference: str
    path: Path
    origin: str
    code: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        check_shape(self.module, self.path, self.origin)
        try:
            self.options  # noqa: B018
        except OptionError as error:
            raise PluginError(f"{self._where('evaluate')}: {error}") from None

    def _where(self, name: str) -> str:
        return where_given(self.path, name)

    def _call(self, function: Callable[..., Any], options: Sequence[Mapping[str, Any]], *args: Any) -> Any:
        """Call one of the file's own functions, its errors made messages that name file and line.

        Args:
            function: It.
            options: What is bound; for a dataclass, what each further parameter is made of, as many as it takes.
            args: What comes before.
        """
        try:
            if self.options_type is None:
                return call_with(function, options[0], *args)
            taken = max(0, len(positional(function)) - len(args))
            return function(*args, *(self.options_type(**one) for one in options[:taken]))
        except EvoTuneError:
            raise
        except Exception as error:
            raise PluginError(f"{where_of(error, self.path)}: {what_of(error)}") from error

    @cached_property
    def hash(self) -> str:
        """SHA-256 over its code: by it a run knows whether that has changed."""
        return source_hash(*((self.path,) if self.code is None else self.code))

    @property
    def place(self) -> str:
        """Where its code stands, for messages."""
        if self.code is None:
            return str(self.path)
        return ", ".join(map(str, self.code)) or f"{self.name}, a {self.origin} without a file"

    @property
    def summary(self) -> str:
        """First line of the file's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the file says it optimises."""
        return tuple(self.module.OBJECTIVES)

    @property
    def metrics(self) -> dict[str, str]:
        """Names and units of what `evaluate` returns to a search, if the file declares them (METRICS)."""
        declared: dict[str, str] = dict(getattr(self.module, "METRICS", {}))
        return {name: unit for name, unit in declared.items() if not self.is_test(name)}

    @property
    def tests(self) -> dict[str, str]:
        """What metrics are called that are measured on the test set, by the metric that searches see (TEST)."""
        return dict(getattr(self.module, "TEST", {}))

    def is_test(self, name: str) -> bool:
        """Say whether a metric is of the test set: named in TEST, or, where there is a TEST, beginning with test_."""
        return is_test(name, self.tests)

    def check_shown(self, what: str, name: str) -> None:
        """Refuse a metric of the test set where a search would see it.

        Args:
            what: Where it is given: '--objective test_loss:min'.
            name: The metric.

        Raises:
            OptionError: It is one.
        """
        if self.is_test(name):
            instead = next((shown for shown, test in self.tests.items() if test == name), "one of the validation set")
            raise OptionError(f"{what}: {name} is of the test set, which no search may see: expected {instead}")

    @property
    def supports(self) -> tuple[str, ...]:
        """What of SUPPORTS the file says that it supports."""
        return tuple(getattr(self.module, "SUPPORTS", ()))

    @property
    def unsupported(self) -> dict[str, str]:
        """What to do for what of SUPPORTS is not supported, where the file says so."""
        return dict(getattr(self.module, "UNSUPPORTED", {}))

    @cached_property
    def options_type(self) -> type[Any] | None:
        """The dataclass of its options, where `evaluate` takes one; None where they are keyword parameters.

        Raises:
            OptionError: The third parameter is annotated with something else.
        """
        given = positional(self.module.evaluate)
        if len(given) < 3:
            return None
        wanted = given[2].annotation
        if isinstance(wanted, str):
            wanted = vars(self.module).get(wanted)
        if not isinstance(wanted, type) or not dataclasses.is_dataclass(wanted):
            raise OptionError(
                f"evaluate takes 3 positional arguments, and the third, {given[2].name}, is annotated with no "
                "dataclass of this file: expected evaluate(genome, context, options: Options), or a * before options"
            )
        return wanted

    @cached_property
    def options(self) -> dict[str, Option]:
        """Its declared options."""
        return options_of(self.options_type or self.module.evaluate)

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every option's value; see `options.binding.bind`.

        Raises:
            UsageError: One is unknown or wrong, or they do not go together.
        """
        bound = bind(given, self.options, self.name, "-o")
        if self.options_type is not None:
            self.options_type(**bound)
        return bound

    def settled(self, options: Mapping[str, Any], rungs: bool) -> dict[str, Any]:
        """Return bound options with what they leave open fixed (see `Options.settled`): what a manifest holds.

        Args:
            options: Bound ones.
            rungs: Whether trainings in part are judged.

        Raises:
            PluginError: The file's own `settled` raises; the text names file and line.
        """
        if self.options_type is None or not issubclass(self.options_type, Options):
            return dict(options)
        made = self._call(lambda given: given.settled(rungs), [options])
        return {name: getattr(made, name) for name in options}

    def space(self, options: Mapping[str, Any]) -> SearchSpace:
        """Return the search space under these options; what options offer as genes is optional in it.

        Raises:
            PluginError: SPACE is neither a SearchSpace nor a function that returns one.
        """
        own = self._own_space(options)
        if self.options_type is None:
            return own
        known = own.genes.keys() | own.optional.keys()
        more = {name: gene for name, gene in offered(self.options, options).items() if name not in known}
        return SearchSpace(own.repair, {**own.optional, **more}, **own.genes)

    def _own_space(self, options: Mapping[str, Any]) -> SearchSpace:
        space = self.module.SPACE
        if not isinstance(space, SearchSpace) and callable(space):
            space = self._call(space, [options])
        if not isinstance(space, SearchSpace):
            raise PluginError(f"{self._where('SPACE')}: SPACE gives {space!r}: expected a SearchSpace")
        return space

    def _with_genes(self, options: Mapping[str, Any], genome: Genome) -> Mapping[str, Any]:
        """Return options as a genome has them: those that the user made genes at its values.

        A gene of the file's own space is the file's to read, from the genome, whatever option has its name.
        """
        named = genome.keys() & self.options.keys() if self.options_type is not None else set()
        return {**options, **{name: genome[name] for name in named - self._own_genes(options)}} if named else options

    def gene_options(self, options: Mapping[str, Any]) -> dict[str, Option]:
        """Return the options for which a genome's value of that name stands: fields, but for the file's own genes."""
        if self.options_type is None:
            return {}
        own = self._own_genes(options)
        return {name: one for name, one in self.options.items() if name not in own}

    def _own_genes(self, options: Mapping[str, Any]) -> frozenset[str]:
        key = tuple(sorted(options.items()))
        if key not in self._known_genes:
            self._known_genes[key] = frozenset(self._own_space(options).genes)
        return self._known_genes[key]

    @cached_property
    def _known_genes(self) -> dict[tuple[tuple[str, Any], ...], frozenset[str]]:
        return {}

    def fingerprint(self, options: Mapping[str, Any]) -> str:
        """Return the identity of the data under these options; '' if the file declares none."""
        function = getattr(self.module, "fingerprint", None)
        return "" if function is None else str(self._call(function, [options]))

    def remarks(self, options: Mapping[str, Any]) -> list[str]:
        """Return what the file has to say of these options before anything is trained, a line each; mostly nothing.

        Raises:
            PluginError: It raises; the text names file and line.
        """
        function = getattr(self.module, "remarks", None)
        return [] if function is None else [one_line(str(text)) for text in self._call(function, [options])]

    def estimate(self, genome: Genome, options: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics known before training, such as params; empty if the file declares none.

        Raises:
            PluginError: It raises, or returns something else than numbers by name; the text names file and line.
        """
        function = getattr(self.module, "estimate", None)
        if function is None:
            return {}
        known = self._call(function, [self._with_genes(options, genome)], dict(genome))
        if isinstance(known, Mapping) and all(is_number(value) for value in known.values()):
            return dict(known)
        what = one_line(f"estimate gives {known!r}")
        raise PluginError(f"{self._where('estimate')}: {what}: expected a dict of metric names to numbers")

    def carry(self, genome: Genome, target: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a genome at another size, as the file's `carry` gives it.

        Raises:
            PluginError: The file has none, it raises, or returns something else than CARRIED by name.
        """
        function = getattr(self.module, "carry", None)
        if function is None:
            raise PluginError(
                f"evaluator {self.name} has no carry(genome, target, options), so nothing is known of it at another "
                "size; language_model has one"
            )
        found = self._call(function, [self._with_genes(options, genome)], dict(genome), dict(target))
        if not isinstance(found, Mapping) or not set(CARRIED) <= set(found):
            raise PluginError(f"{self._where('carry')}: carry gives {one_line(repr(found), 60)}: expected {CARRIED}")
        return dict(found)

    def evaluate(self, genome: Genome, context: Context, options: Mapping[str, Any]) -> Any:
        """Train once and return what the file's `evaluate` returned, and its estimates, unjudged."""
        if self.options_type is None:
            returned = self.module.evaluate(dict(genome), context, **options)
        else:
            made = self.options_type(**self._with_genes(options, genome))
            returned = self.module.evaluate(dict(genome), context, made)
        return {**self.estimate(genome, options), **returned} if isinstance(returned, Mapping) else returned

    def export(self, genome: Genome, context: Context, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Have the file's `export` train once more and write something usable; return its metrics, the test set's too.

        Raises:
            PluginError: It raises; the text names file and line.
        """
        context.test = True
        metrics = self._call(self.module.export, [self._with_genes(options, genome)], dict(genome), context, folder)
        return dict(metrics) if isinstance(metrics, Mapping) else {}
