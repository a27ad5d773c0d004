"""An evaluator: its file as a plug-in (`Evaluator`), and the plug-in with its options (`BoundEvaluator`).

An evaluator is one Python file with SPACE, OBJECTIVES and `evaluate`, and optionally METRICS, TEST, SUPPORTS,
`estimate`, `fingerprint`, `describe`, `remarks`, BASELINE with `baseline`, `transfer` and `export`. Its options are
keyword parameters of `evaluate(genome, context, *, steps=300)`, or a dataclass (see `options.declare`) in
`evaluate(genome, context, options: Options)`; then the other functions take the same `options` last.

`Evaluator.bind` checks and converts the options that a user gave, once in a process: `BoundEvaluator.with_options`
changes single ones later. All functions of the file are called through its result. Plain options are only in the
manifest and in the message to a worker, as `BoundEvaluator.options`. `find` finds a file.
"""

import ast
import contextlib
import copy
import dataclasses
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from evo_tune.errors import EvoTuneError, OptionError, PluginError, SpaceError
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.notation import parse_gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective
from evo_tune.genome.values import Genome
from evo_tune.options.binding import bind_options, call_with_declared_options, options_of
from evo_tune.options.declare import AUTO, Option, Options, without_dropped
from evo_tune.plugins.code import source_hash
from evo_tune.plugins.context import Context
from evo_tune.plugins.patches.combining import PatchSet
from evo_tune.text import one_line

# Features that an evaluator may support. 'budget': it trains `context.budget` of a full training, and resumes from
# `context.resume_folder`. 'curve': it reports its first objective by `context.report`. 'timing': it times
# `context.timing` steps and returns the seconds of a full training. 'ensemble': its `export` notes the predictions for
# held-out samples in `context.predictions`, and `load_model` reads the model.
SUPPORTS = ("budget", "curve", "timing", "ensemble")

# Hint for a file that is no evaluator.
AS_COMMAND = "; a script is run by its command, such as 'python train.py --lr {lr}'"

# Origins of evaluators whose genes and objectives come from the caller.
WITHOUT_OBJECTIVES = ("command", "function")


@dataclass(frozen=True)
class Evaluator:
    """An evaluator's file, loaded and checked.

    Args:
        module: The loaded module.
        name: Short name for people.
        reference: Name in the manifest: 'bundled:NAME', 'entry:NAME', or a path as the user gave it.
        path: Absolute path of the file, which workers import.
        origin: 'bundled', 'file' or 'entry point'; 'command' or 'function' for an evaluator that has no file of its own
            and no objectives.
        code: Files whose change changes results; None: `path`.
        patches: Patches of a command's project; None without.
    """

    module: ModuleType
    name: str
    reference: str
    path: Path
    origin: str
    code: tuple[Path, ...] | None = None
    patches: PatchSet | None = None

    def __post_init__(self) -> None:
        check_shape(self.module, self.path, self.origin)
        try:
            self.options  # noqa: B018
        except OptionError as error:
            raise PluginError(f"{definition_location(self.path, 'evaluate')}: {error}") from None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of its code; a run compares it to notice a change."""
        return source_hash(*((self.path,) if self.code is None else self.code))

    @property
    def place(self) -> str:
        """The files of its code, for messages."""
        if self.code is None:
            return str(self.path)
        return ", ".join(map(str, self.code)) or f"{self.name}, a {self.origin} without a file"

    @property
    def summary(self) -> str:
        """First line of the file's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The file's own objectives."""
        return tuple(self.module.OBJECTIVES)

    @property
    def metrics(self) -> dict[str, str]:
        """Declared names and units of the metrics that a search sees (METRICS)."""
        declared: dict[str, str] = dict(getattr(self.module, "METRICS", {}))
        return {name: unit for name, unit in declared.items() if not self.is_test(name)}

    @property
    def tests(self) -> dict[str, str]:
        """Names of the metrics of the test set, by the metric that a search sees (TEST)."""
        return dict(getattr(self.module, "TEST", {}))

    @property
    def baseline(self) -> str:
        """Name of the method that the best trial is compared with (BASELINE); '' if the file declares none."""
        return str(getattr(self.module, "BASELINE", ""))

    @property
    def cpu_costs(self) -> dict[str, float]:
        """Usual seconds of a unit of each kind of work on a core of a CPU (CPU_COSTS)."""
        return dict(getattr(self.module, "CPU_COSTS", {}))

    @property
    def seeded(self) -> bool:
        """Whether a training is known to use its seed (SEEDED); only a command can be without."""
        return bool(getattr(self.module, "SEEDED", True))

    def is_test(self, name: str) -> bool:
        """Return whether a metric is of the test set: named in TEST, or 'test_…' if there is a TEST."""
        return is_test_metric(name, self.tests)

    @property
    def supports(self) -> tuple[str, ...]:
        """The file's SUPPORTS."""
        return tuple(getattr(self.module, "SUPPORTS", ()))

    @property
    def unsupported(self) -> dict[str, str]:
        """Remedy by missing entry of SUPPORTS, if the evaluator names one."""
        return dict(getattr(self.module, "UNSUPPORTED", {}))

    @cached_property
    def options_type(self) -> type[Any] | None:
        """Dataclass of the options; None if they are keyword parameters.

        Raises:
            OptionError: The third parameter of `evaluate` is annotated with something else.
        """
        parameters = positional_parameters(self.module.evaluate)
        if len(parameters) < 3:
            return None
        annotation = parameters[2].annotation
        if isinstance(annotation, str):
            annotation = vars(self.module).get(annotation)
        if not isinstance(annotation, type) or not dataclasses.is_dataclass(annotation):
            problem = f"evaluate takes 3 positional arguments, and {parameters[2].name} is annotated with no dataclass"
            expected = "expected evaluate(genome, context, options: Options), or a * before options"
            raise OptionError(f"{problem} of this file: {expected}")
        return annotation

    @cached_property
    def options(self) -> dict[str, Option]:
        """Declared options by name."""
        return options_of(self.options_type or self.module.evaluate)

    def bind(self, values: Mapping[str, Any]) -> "BoundEvaluator":
        """Return the evaluator with its options.

        Args:
            values: Values by option name; strings are converted to the declared type.

        Raises:
            UsageError: An option is unknown or wrong, or the options do not go together.
        """
        return _make_bound(self, values)


@dataclass(frozen=True, eq=False)
class BoundEvaluator:
    """An evaluator with checked options.

    A process binds an evaluator once. `for_run` and `with_options` return a changed copy: they do not parse the options
    again. Each object calls SPACE at most once, on the first use of `space` or `gene_options`.

    Args:
        plugin: The evaluator.
        options: Value of every option, as plain data for a manifest or a message to a worker.
        values: The same as an object of the evaluator's dataclass; `options` if they are keyword parameters.
        run_genes: Names of the genes of a saved run; None for a new run. A gene that the evaluator has got since is
            left out if it is a field of its dataclass too: the run has trained with the field's default.
    """

    plugin: Evaluator
    options: dict[str, Any]
    values: Any
    run_genes: frozenset[str] | None = None

    def with_options(self, **changes: Any) -> "BoundEvaluator":
        """Return the evaluator with other values of some options, checked as `Evaluator.bind` checks them.

        `bound.with_options(cost=text, seconds=2.5)` is `plugin.bind({**bound.options, "cost": text, "seconds": 2.5})`.
        Options that `for_run` has fixed keep their values.

        Args:
            changes: Values by option name.

        Raises:
            UsageError: An option is unknown or wrong, or the options do not go together.
        """
        return dataclasses.replace(_make_bound(self.plugin, {**self.options, **changes}), run_genes=self.run_genes)

    def for_run(self, rungs: bool) -> "BoundEvaluator":
        """Return the evaluator with its open options fixed for a run (see `Options.settled`).

        Args:
            rungs: Whether the run has partial trainings.

        Raises:
            PluginError: The file's own `settled` raises; the text names file and line.
        """
        if not isinstance(self.values, Options):
            return self
        values = self._call_with_location(self.values.settled, rungs)
        return dataclasses.replace(self, options={name: getattr(values, name) for name in self.options}, values=values)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, with the genes that options offer as optional ones.

        Raises:
            PluginError: SPACE is neither a SearchSpace nor a function that returns one.
        """
        return self._file_space.with_genes({}, optional=self.optional_genes)

    @cached_property
    def optional_genes(self) -> dict[str, Gene]:
        """Genes that are off until a user names them: the file's own, and those that options offer.

        An offered gene has the option's value as its default if the gene has that value.

        Raises:
            SpaceError: A declaration offers an invalid gene.
        """
        genes = dict(self._file_space.optional)
        for name, option in self.gene_options.items():
            gene = None if name in genes else _gene_of_option(option)
            if gene is not None:
                with contextlib.suppress(SpaceError):  # the gene does not have the option's value
                    gene = dataclasses.replace(gene, default=gene.check(self.options[name]))  # type: ignore[type-var]
                genes[name] = gene
        return genes

    @cached_property
    def _file_space(self) -> SearchSpace:
        space = self.plugin.module.SPACE
        if not isinstance(space, SearchSpace) and callable(space):
            space = self._call(space)
        if not isinstance(space, SearchSpace):
            where = definition_location(self.plugin.path, "SPACE")
            raise PluginError(f"{where}: SPACE gives {space!r}: expected a SearchSpace")
        if self.run_genes is None or self.plugin.options_type is None:
            return space
        new_names = space.genes.keys() & self.plugin.options.keys() - self.run_genes
        genes = {name: gene for name, gene in space.genes.items() if name not in new_names}
        return SearchSpace(space.repair, space.optional, **genes) if new_names else space

    @cached_property
    def gene_options(self) -> dict[str, Option]:
        """Options that a gene of the same name replaces: fields of the dataclass, except the file's own genes."""
        if self.plugin.options_type is None:
            return {}
        return {name: option for name, option in self.plugin.options.items() if name not in self._file_space.genes}

    def _of(self, genome: Genome) -> Any:
        """Return a copy of the options, with genes in place of the options of the same name.

        It is a copy because a dataclass of a user's file need not be frozen, and all trainings of a worker share this
        object.
        """
        changes = {name: genome[name] for name in genome.keys() & self.gene_options.keys()}
        if not changes:
            return copy.copy(self.values)
        if isinstance(self.values, Options):
            return self.values.with_values(**changes)
        return dataclasses.replace(self.values, **changes)

    def _call(self, function: Callable[..., Any], *args: Any, values: Any = None) -> Any:
        """Call a function of the file with options, if it takes them; its errors name file and line.

        Args:
            function: The function.
            args: Its other arguments.
            values: The options; None: those of no genome.
        """
        values = self.values if values is None else values
        if self.plugin.options_type is None:
            return self._call_with_location(call_with_declared_options, function, values, *args)
        return self._call_with_location(
            function, *args, *([values] if len(positional_parameters(function)) > len(args) else [])
        )

    def _call_with_location(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except EvoTuneError:
            raise
        except Exception as error:
            raise PluginError(f"{error_location(error, self.plugin.path)}: {error_text(error)}") from error

    def fingerprint(self) -> str:
        """Return the identity of the data; '' if the file declares none."""
        function = getattr(self.plugin.module, "fingerprint", None)
        return "" if function is None else str(self._call(function))

    def remarks(self) -> list[str]:
        """Return the file's remarks about the options, one line each.

        Raises:
            PluginError: The function raises; the text names file and line.
        """
        return self._lines("remarks")

    def describe(self) -> list[str]:
        """Return what the file's `describe` says of the data that was read, one line each; empty if it has none.

        Raises:
            PluginError: The function raises; the text names file and line.
        """
        return self._lines("describe")

    def _lines(self, name: str) -> list[str]:
        """Return the texts that a function of the file gives; none if there is no such function."""
        function = getattr(self.plugin.module, name, None)
        return [] if function is None else [one_line(str(text)) for text in self._call(function)]

    def estimate(self, genome: Genome) -> dict[str, float]:
        """Return the metrics that are known before training, such as params; empty if the file declares none.

        Raises:
            PluginError: The function raises, or does not return numbers by name; the text names file and line.
        """
        return self._amounts("estimate", genome)

    def _amounts(self, name: str, genome: Genome) -> dict[str, float]:
        """Return the numbers that a function of the file gives for a genome; none if there is no such function."""
        function = getattr(self.plugin.module, name, None)
        if function is None:
            return {}
        numbers = self._call(function, dict(genome), values=self._of(genome))
        if isinstance(numbers, Mapping) and all(is_number(value) for value in numbers.values()):
            return dict(numbers)
        location, text = definition_location(self.plugin.path, name), one_line(f"{name} gives {numbers!r}")
        raise PluginError(f"{location}: {text}: expected a dict of metric names to numbers")

    def work(self, genome: Genome) -> dict[str, float]:
        """Return the amount of each kind of work in a step, by name, from the file's `work`.

        Raises:
            PluginError: The function raises, or does not return numbers by name; the text names file and line.
        """
        return self._amounts("work", genome)

    def transfer(self, genome: Genome, target: Mapping[str, Any]) -> Any:
        """Return a genome at another size, as the file's `transfer` returns it; see `forecast.scale.Recipe`.

        Raises:
            PluginError: The file has no `transfer`, or it raises; the text names file and line.
        """
        function = getattr(self.plugin.module, "transfer", None)
        if function is None:
            raise PluginError(f"evaluator {self.plugin.name} has no transfer(genome, target, options)")
        return self._call(function, dict(genome), dict(target), values=self._of(genome))

    def evaluate(self, genome: Genome, context: Context) -> Any:
        """Train once; return the result of the file's `evaluate` with its estimates. Errors are the file's own."""
        evaluate = self.plugin.module.evaluate
        if self.plugin.options_type is None:
            returned = evaluate(dict(genome), context, **self.values)
        else:
            returned = evaluate(dict(genome), context, self._of(genome))
        return {**self.estimate(genome), **returned} if isinstance(returned, Mapping) else returned

    def baseline(self) -> Any:
        """Train the file's baseline; return its metrics, those of the test set included. Errors are the file's own."""
        return self._call(self.plugin.module.baseline)

    def export(self, genome: Genome, context: Context, folder: Path) -> dict[str, Any]:
        """Call the file's `export`, which trains once more and writes a model; return its metrics.

        Raises:
            PluginError: The function raises; the text names file and line.
        """
        context.test = True
        metrics = self._call(self.plugin.module.export, dict(genome), context, folder, values=self._of(genome))
        return dict(metrics) if isinstance(metrics, Mapping) else {}


def _make_bound(plugin: Evaluator, values: Mapping[str, Any]) -> BoundEvaluator:
    if isinstance(values, Mapping):
        values = without_dropped(plugin.options_type, values)
    options = bind_options(values, plugin.options, plugin.name, "-o")
    return BoundEvaluator(plugin, options, options if plugin.options_type is None else plugin.options_type(**options))


def _gene_of_option(option: Option) -> Gene | None:
    """Return the gene that an option offers; None if it cannot differ between genomes."""
    if option.gene is None:
        return None
    if option.gene:
        return parse_gene(option.name, option.gene)
    if values := tuple(choice for choice in option.choices if choice != AUTO):
        return Choice(values)
    return Choice((False, True)) if option.type is bool else None


# ---------------------------------------------------------------- the shape of a file, and the errors of its code


def check_shape(module: ModuleType, path: Path, origin: str) -> None:
    """Refuse a file that is no evaluator.

    Args:
        module: The loaded file.
        path: Path of the file.
        origin: See `Evaluator`.

    Raises:
        PluginError: A part is missing or wrong; the text names file, line and what was expected.
    """
    for name, example in (("SPACE", "SPACE = SearchSpace(…)"), ("OBJECTIVES", "OBJECTIVES = [Minimize(…)]")):
        if not hasattr(module, name):
            raise PluginError(f"{path}: expected {example}, found no {name}; `evo-tune new` shows one{AS_COMMAND}")
    if not callable(getattr(module, "evaluate", None)):
        raise PluginError(f"{path}: expected a function evaluate(genome, context), found none")
    for name, problem in _shape_problems(module, origin):
        raise PluginError(f"{definition_location(path, name)}: {problem}")


def _shape_problems(module: ModuleType, origin: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each part of an evaluator's file that is wrong, and what was expected."""
    objectives, metrics, tests = module.OBJECTIVES, getattr(module, "METRICS", {}), getattr(module, "TEST", {})
    supports, costs = getattr(module, "SUPPORTS", []), getattr(module, "CPU_COSTS", {})
    count = len(positional_parameters(module.evaluate))
    if count not in (2, 3):
        expected = "evaluate(genome, context, *, options) or evaluate(genome, context, options: Options)"
        yield "evaluate", f"evaluate takes {count} positional arguments: expected {expected}"
    well_formed = isinstance(objectives, Sequence) and (objectives or origin in WITHOUT_OBJECTIVES)
    if not well_formed or not all(isinstance(objective, Objective) for objective in objectives):
        yield "OBJECTIVES", f"OBJECTIVES is {objectives!r}: expected a list of Minimize(…), Maximize(…)"
    if not isinstance(module.SPACE, SearchSpace) and not callable(module.SPACE):
        yield "SPACE", f"SPACE is {module.SPACE!r}: expected a SearchSpace(…)"
    if not _is_text_dict(metrics):
        yield "METRICS", f"METRICS is {metrics!r}: expected a dict of metric name to unit ('' for none)"
    if not _is_text_dict(tests) or not all(name for pair in tests.items() for name in pair):
        expected = "a dict of metric names to those of the same on the test set, such as {'val_loss': 'test_loss'}"
        yield "TEST", f"TEST is {tests!r}: expected {expected}"
    for name in [*tests, *(objective.metric for objective in objectives)]:
        if is_test_metric(name, tests):
            expected = "an objective of the validation set, and in TEST what it is called on the test set"
            yield "TEST", f"{name} is of the test set, which no search may see: expected {expected}"
    if lost := [name for name in tests if metrics and name not in metrics]:
        yield "TEST", f"TEST names {', '.join(lost)}, of which METRICS says nothing"
    if isinstance(supports, str) or not isinstance(supports, Sequence) or not set(supports) <= set(SUPPORTS):
        yield "SUPPORTS", f"SUPPORTS is {supports!r}: expected a list of {', '.join(map(repr, SUPPORTS))}"
    if not isinstance(costs, Mapping) or not all(is_number(cost) and float(cost) > 0.0 for cost in costs.values()):
        yield "CPU_COSTS", f"CPU_COSTS is {costs!r}: expected a dict of kinds of work to seconds above 0"
    name, function = getattr(module, "BASELINE", ""), getattr(module, "baseline", None)
    if not isinstance(name, str) or bool(name) != callable(function):
        expected = (
            "a name, such as BASELINE = 'linear model', and a function baseline(options) that returns its metrics"
        )
        yield "BASELINE", f"BASELINE is {name!r} and baseline is {function!r}: expected {expected}"


def _is_text_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)


def is_test_metric(name: str, tests: Mapping[str, str]) -> bool:
    """Return whether a metric is of the test set: named in TEST, or 'test_…' if there is a TEST."""
    return name in tests.values() or (bool(tests) and name.startswith("test_"))


def is_number(value: Any) -> bool:
    """Return whether a value converts to a float."""
    try:
        float(value)
    except Exception:  # a user's own __float__ may raise anything
        return False
    return True


@lru_cache(maxsize=256)  # estimates of proposals ask each time
def positional_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function that can be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind in kinds]


def definition_location(path: Path, name: str) -> str:
    """Return FILE:LINE of the statement that defines a module-level name; FILE if there is none."""
    line = 0
    for node in ast.parse(path.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        names = {getattr(target, "id", getattr(target, "name", None)) for target in targets}
        line = node.lineno if name in names else line
    return f"{path}:{line}" if line else str(path)


def error_location(error: BaseException, path: Path) -> str:
    """Return FILE:LINE of the last frame of an error in a plug-in's file; FILE if there is none."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def error_text(error: BaseException) -> str:
    """Return the message of an error in one line, with its class unless it is an error of evo-tune."""
    if isinstance(error, EvoTuneError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())
