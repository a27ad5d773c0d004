"""`Script`: run a training that is another program, with a genome in its command line, and read its output.

A command has placeholders: `{lr}` is the value of a gene, `{seed}` and the like describe the trial, `{name?yes:no}` is
one of two texts, `{budget*2000}` the steps of a partial training, and `{{` and `}}` are braces. Values are inserted
after the command was split into words, so no value can inject code. Metrics are read from the output: JSON objects, or
numbers that patterns find, or, without patterns, numbers behind the names of the objectives. The last value of each
metric counts, and each line with an objective is a point of the learning curve.
"""

import contextlib
import difflib
import math
import os
import re
import shlex
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo_tune.errors import OptionError
from evo_tune.genome.values import Genome
from evo_tune.options.binding import did_you_mean
from evo_tune.plugins.context import THREAD_VARIABLES, Context
from evo_tune.plugins.scripts.metrics_file import MetricsFile, other_files_hint, parse_metrics_file
from evo_tune.plugins.scripts.processes import TAIL_LINES, Ended, run_script
from evo_tune.plugins.scripts.records import parse_json
from evo_tune.plugins.scripts.template import ConfigTemplate
from evo_tune.text import one_line

# Placeholders that are no genes. `resume` is '' if there is nothing to resume from.
TRIAL_PLACEHOLDERS = ("seed", "device", "threads", "budget", "folder", "resume")

PLACEHOLDER_OR_BRACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
BUDGET_STEPS = re.compile(r"budget\s*\*\s*(\d{1,15})")

# Metrics of a script, and points of its learning curve, that are kept.
MOST_METRICS, MOST_POINTS = 500, 1000

# A printed number. It may be nan, so that a diverged training does not count with its last finite value.
NUMBER = r"[-+]?(?:\d+(?:_\d+)*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|(?:nan|inf(?:inity)?)\b)"

# A number of its own. That of 'acc@5' is part of a name.
NUMBER_ALONE = re.compile(rf"(?<![\w.@/-]){NUMBER}(?!\w)", re.IGNORECASE)

WORD = r"[^\W\d_][\w/@-]*"
# Up to four words, and the number behind them.
NUMBER_WITH_LABEL = re.compile(rf"(?<![\w/@-])({WORD}(?: {WORD}){{0,3}})[^\w.+-]+({NUMBER})", re.IGNORECASE)

# Characters of a line that are searched: the pattern takes quadratic time.
MAX_SEARCHED_CHARACTERS = 2000

# Most numbers to suggest for a metric, and most kinds of lines to note for one.
MOST_SUGGESTIONS = 3

# Words of metrics that are minimised, and of those that are maximised.
METRIC_WORDS_BY_DIRECTION = (
    {"bpb", "cost", "err", "error", "loss", "mae", "mse", "nll", "perplexity", "ppl", "regret", "rmse"},
    {"acc", "accuracy", "auc", "bleu", "f1", "precision", "r2", "recall", "reward", "score"},
)


class Script:
    """Training that is another program: `Script("python train.py --lr {lr}").run(genome, context)`.

    Args:
        command: Program and arguments, split as a shell would, with placeholders: {GENE}, {seed}, {device}, {threads},
            {budget}, {budget*2000} (steps, of 2000 in a full training), {folder} (the trial's folder), {resume} (folder
            of the trial to resume from, or nothing), {NAME?YES:NO}. A list of words is not split.
        metrics: NAME=PATTERN or NAME for each metric (see `parse_patterns`); none: lines that are JSON objects, else
            text with the objective's name and a number, 'val loss: 2.1' for val_loss.
        progress: Place of a point on the learning curve: '20', 'step/2000', 'fraction' (see `parse_progress`).
        shell: Whether /bin/sh runs the command, with quoted values.
        metrics_file: File of metrics in the trial's folder, '{folder}/metrics.json', which is read instead of the
            output: JSON, JSON lines, CSV, or a folder with event files of TensorBoard. `metrics` are then NAME=KEY.
        template: File of which each trial gets a copy with its values, {config} (see `ConfigTemplate`).
        set_values: NAME={GENE} for values of the template that are replaced: 'model.depth={depth}'.

    Raises:
        OptionError: An argument is not understood.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        metrics: str | Sequence[str] = (),
        progress: str = "",
        shell: bool = False,
        metrics_file: str = "",
        template: str = "",
        set_values: str | Sequence[str] = (),
    ) -> None:
        self.config = ConfigTemplate(template, _lines_of(set_values)) if template else None
        text = command if isinstance(command, str) else shlex.join(command)
        self.command = CommandTemplate(text, shell, self.config)
        metrics = _lines_of(metrics)
        self.metrics_file = metrics_file
        self.keys = parse_keys(metrics, "KEY such as 'val_loss=eval/nll'") if metrics_file else {}
        self.patterns = {} if metrics_file else parse_patterns(metrics)
        self.curve_position = parse_progress(progress)
        if metrics_file:
            parse_metrics_file(metrics_file)

    def run(self, genome: Genome, context: Context, working_folder: Path | None = None) -> dict[str, float]:
        """Run the program once, and return the last value of every metric that it printed.

        It runs in `working_folder`, by default in the working directory of this process.

        It receives seed, device, threads, budget and resume in EVO_TUNE_SEED and so on. It sees its own GPU only
        (CUDA_VISIBLE_DEVICES), and the trial's number of threads (OMP_NUM_THREADS …).

        Raises:
            RunError: The exit code is not 0, or an objective was not printed.
            Pruned: The learning curve passed a bound; the program is killed.
        """
        values: dict[str, Any] = {
            "seed": context.seed,
            "device": context.device,
            "threads": context.threads,
            "budget": context.budget,
            "resume": "" if context.resume_folder is None else os.path.abspath(context.resume_folder),
        }
        trial_variables = {f"EVO_TUNE_{name.upper()}": str(value) for name, value in values.items()}
        threads = dict.fromkeys(THREAD_VARIABLES, str(context.threads))
        # Unbuffered output: points of the curve must arrive in time to stop the program.
        environment = {**os.environ, **trial_variables, **threads, "PYTHONUNBUFFERED": "1"}
        if "folder" in self.command.names or self.metrics_file or self.config is not None:
            values["folder"] = os.path.abspath(context.folder)  # reading context.folder makes it
        reader = OutputReader(self.patterns, self.curve_position, context)
        if self.config is not None:
            values["config"] = os.path.abspath(context.folder / self.config.path.name)
            self.config.write(context.folder, lambda inside: placeholder_value(inside, {**values, **genome}))
        words, shell = self.command.fill({**values, **genome}), self.command.shell
        names = [objective.metric for objective in context.objectives]
        file = None
        if self.metrics_file:
            progress_names = set() if self.curve_position is None else self.curve_position.names
            file = MetricsFile(self.metrics_file, context.folder, self.keys, names, progress_names, reader.take)
            run_script(words, environment, shell, lambda line: None, working_folder, file.read_if_due)
            file.read_all()
        else:
            run_script(words, environment, shell, reader.read_line, working_folder)
        missing = [name for name in names if name not in reader.metrics]
        if missing and missing != ["seconds"]:  # seconds are measured, not printed
            config_name = "" if self.config is None else self.config.path.name
            hint = other_files_hint(context.folder, config_name) if file is None and context.attempted else ""
            text = (file or reader).missing_metric_text(missing[0])
            if hint and not reader.has_printed_like(missing[0]):
                text = f"the script printed no {missing[0]}"
            raise Ended(f"{text}; {hint}" if hint else text)
        reader.report_waiting_points()
        return reader.metrics


def _lines_of(texts: str | Sequence[str]) -> Sequence[str]:
    return texts.splitlines() if isinstance(texts, str) else texts


class CommandTemplate:
    """Command with placeholders, split as a POSIX shell would.

    Args:
        text: The command.
        shell: Whether it stays one text for a shell, with quoted values.
        config: Template of the configuration file {config}, whose placeholders count too.

    Raises:
        OptionError: A quotation mark is not closed, there is no word, or no place for the configuration file.
    """

    def __init__(self, text: str, shell: bool = False, config: ConfigTemplate | None = None) -> None:
        self.text = text
        self.shell = shell
        self.config_names = [] if config is None else config.names
        self.trial_placeholders = (*TRIAL_PLACEHOLDERS, *([] if config is None else ["config"]))
        shown = repr(one_line(text, 120))
        try:
            words = shlex.split(text)
        except ValueError as error:
            if not shell:
                problem = f"the command {shown} cannot be split into words"
                raise OptionError(f"{problem}: {error}; quote it as for a shell") from None
            words = []
        if not text.strip() or "\0" in text or (not words and not shell):
            raise OptionError(f"the command {shown}: expected a program and its arguments")
        self.words = [text] if shell else words
        if config is not None and not {"config", "folder"} & {*self._own_names}:
            raise OptionError(f"the command {shown} has no {{config}}: put it where the script reads its configuration")

    @property
    def names(self) -> list[str]:
        """Names in placeholders, in order, each once; those that a configuration file may have are last."""
        return list(dict.fromkeys([*self._own_names, *self.config_names]))

    @property
    def _own_names(self) -> list[str]:
        matches = (match for word in self.words for match in PLACEHOLDER_OR_BRACE.finditer(word))
        return list(dict.fromkeys(_name_of(match[1]) for match in matches if match[1] is not None))

    @property
    def genes(self) -> list[str]:
        """Names that are not given to each trial."""
        return [name for name in self.names if name not in self.trial_placeholders]

    def check(self, genes: Iterable[str]) -> None:
        """Require a placeholder for each gene, and a gene for each placeholder.

        Raises:
            OptionError: One is missing.
        """
        genes = list(genes)
        for name in genes:
            if name in self.trial_placeholders:
                raise OptionError(f"--gene {name}: {{{name}}} is what each trial is given; expected another name")
            if name not in self.genes:
                hint = did_you_mean(name, self.genes)
                raise OptionError(
                    f"--gene {name}: the command has no {{{name}}}{hint}: put it where the value belongs, such as "
                    f"--{name} {{{name}}}"
                )
        for name in self._own_names:
            if name not in genes and name not in self.trial_placeholders:
                hint, shown = did_you_mean(name, [*genes, *self.trial_placeholders]), one_line(name, 60)
                placeholders = ", ".join(f"{{{placeholder}}}" for placeholder in self.trial_placeholders)
                raise OptionError(
                    f"{{{shown}}} in the command is no gene{hint}: give it as --gene '{shown}=…', use one of "
                    f"{placeholders}, or write {{{{ and }}}} for the braces themselves"
                )

    def fill(self, values: Mapping[str, Any]) -> list[str]:
        """Return the words with values in place of the placeholders; for a shell, one text.

        A word of placeholders that becomes empty (`{name?yes}`) is left out.

        Args:
            values: Values by name; a placeholder without a value stays.
        """

        def text_of(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]  # one brace of a doubled one
            value = placeholder_value(match[1], values)
            if value is None:
                return match[0]
            is_quoted = self.shell and "?" not in match[1]  # that is the user's own text
            return shlex.quote(str(value)) if is_quoted else str(value)

        texts = [(word, PLACEHOLDER_OR_BRACE.sub(text_of, word)) for word in self.words]
        return [text for word, text in texts if text or not PLACEHOLDER_OR_BRACE.search(word)]


def placeholder_value(inside: str, values: Mapping[str, Any]) -> Any:
    """Return the value of a placeholder; None if there is no value of its name.

    Args:
        inside: Text between its braces.
        values: Values by name.
    """
    value = values.get(_name_of(inside))
    if value is None:
        return None
    if steps := BUDGET_STEPS.fullmatch(inside.strip()):
        return max(1, math.ceil(value * int(steps[1]) - 1e-9))
    if "?" in inside:
        yes, _, no = inside.partition("?")[2].partition(":")
        return yes if value else no
    return value


def _name_of(inside: str) -> str:
    inside = inside.strip()
    return "budget" if BUDGET_STEPS.fullmatch(inside) else inside.partition("?")[0].strip()


def parse_keys(texts: Iterable[str], expected: str) -> dict[str, str]:
    """Return what is behind the name of each metric, in NAME=… or NAME.

    Args:
        texts: Metrics, as `--metric` takes them.
        expected: What is expected there, for the message.

    Raises:
        OptionError: A name is missing, nothing is behind its '=', or it is given twice.
    """
    keys: dict[str, str] = {}
    for text in texts:
        name, equals, key = text.partition("=")
        shown, name = one_line(text, 100), name.strip()
        if not name or (equals and not key):
            raise OptionError(f"--metric {shown}: expected NAME, or NAME={expected}")
        if name in keys:
            raise OptionError(f"--metric {shown}: {name} is given twice: give it once, with A|B in its pattern")
        keys[name] = key
    return keys


def parse_patterns(texts: Iterable[str]) -> dict[str, re.Pattern[str]]:
    """Parse metrics: NAME=PATTERN, a regular expression with the number as its group or behind it; or NAME alone.

    Raises:
        OptionError: A pattern is no regular expression, has several groups or no name, or a name is given twice.
    """
    patterns: dict[str, re.Pattern[str]] = {}
    for name, pattern in parse_keys(texts, "PATTERN such as 'val_loss=val loss ([0-9.]+)'").items():
        shown = one_line(f"{name}={pattern}", 100)
        try:
            compiled = re.compile(pattern or rf"(?<!\w){re.escape(name)}(?!\w)")
            if not compiled.groups:
                compiled = re.compile(rf"(?:{compiled.pattern})[^\w.+-]*({NUMBER})", re.IGNORECASE)
        except (re.error, RecursionError, OverflowError) as error:
            raise OptionError(f"--metric {shown}: {error}; expected a regular expression of Python") from None
        if compiled.groups != 1:
            raise OptionError(f"--metric {shown}: it has {compiled.groups} groups: expected one, around the number")
        patterns[name] = compiled
    return patterns


@dataclass(frozen=True)
class CurvePosition:
    """Rule for the place of a point on the learning curve.

    Args:
        metric: Name of a metric that grows with training; '' to count points.
        total: Its value at the end of a full training: a number, or the name of a metric.
    """

    metric: str
    total: float | str

    @property
    def names(self) -> set[str]:
        """Names of the metrics that it needs."""
        return {name for name in (self.metric, self.total) if isinstance(name, str) and name}


def parse_progress(text: str) -> CurvePosition | None:
    """Parse '20' (points of a full training), 'step/2000', 'step/max_steps', 'fraction' (a metric, the share), or ''.

    Raises:
        OptionError: The text is none of these.
    """
    if not text:
        return None
    metric, slash, total = (part.strip() for part in text.partition("/"))
    number = None
    with contextlib.suppress(ValueError):  # else the name of a metric
        number = float(total if slash else metric)
    if metric and slash and number is not None and 0 < number < math.inf:
        return CurvePosition(metric, number)  # step/2000
    if metric and slash and number is None and total:
        return CurvePosition(metric, total)  # step/max_steps
    if metric and not slash and number is None:
        return CurvePosition(metric, 1.0)  # fraction
    if not slash and number is not None and 1 <= number < math.inf:
        return CurvePosition("", number)  # 20
    raise OptionError(
        f"--progress {one_line(text, 60)}: expected how many points a full training prints (20), a metric and what it "
        "is at the end (step/2000, step/max_steps), or a metric that is the share done (fraction)"
    )


class OutputReader:
    """Reader of a script's output that reports its learning curve.

    Without patterns, the best source of a metric counts: JSON objects, else text in which the name alone stands before
    the number, else text in which more words do.

    Args:
        patterns: Pattern of each metric; none: metrics are read by their names.
        curve_position: Rule for the place of a point; None: unknown until the end, when the points are spread evenly.
        context: Context of the evaluation.
    """

    def __init__(
        self, patterns: Mapping[str, re.Pattern[str]], curve_position: CurvePosition | None, context: Context
    ) -> None:
        self.metrics: dict[str, float] = {}
        # Last lines of the output.
        self.last_lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._patterns, self._curve_position, self._context = patterns, curve_position, context
        self._objective_names = {objective.metric for objective in context.objectives}
        # For each metric that was found in text: the kinds of lines, by their words before the name.
        self._line_kinds_by_metric: dict[str, dict[tuple[str, ...], NamedValue]] = {}
        # Metrics that were found in JSON objects.
        self._metrics_from_json: set[str] = set()
        self._next_point: dict[str, float] = {}
        self._waiting_points: list[dict[str, float]] = []
        # Every n-th waiting point is kept. The share is that of the last reported point.
        self._keep_every, self._points_read, self._last_share = 1, 0, 0.0

    def read_line(self, line: str) -> None:
        """Read a line.

        Raises:
            Pruned: The learning curve passed a bound.
        """
        if line.strip():
            self.last_lines.append(line)
        values = find_by_patterns(line, self._patterns) if self._patterns else self._find_by_names(line)
        if values:
            self.take(values)

    def take(self, values: Mapping[str, float]) -> None:
        """Take the metrics of a line, or of a row of a metrics file.

        Raises:
            Pruned: The learning curve passed a bound.
        """
        new = [name for name in values if name not in self.metrics][: max(0, MOST_METRICS - len(self.metrics))]
        values = {name: value for name, value in values.items() if name in self.metrics or name in new}
        self.metrics |= values
        self._next_point |= values
        if self._objective_names & values.keys():
            self._points_read += 1
            point, self._next_point = self._next_point, {}
            rule = self._curve_position
            if rule is not None:
                reached = self.metrics.get(rule.metric, 0.0) if rule.metric else float(self._points_read)
                total = self.metrics.get(rule.total, math.inf) if isinstance(rule.total, str) else rule.total
                self._report(reached / total if total else 0.0, point)
                return
            if self._points_read % self._keep_every == 0:
                self._waiting_points.append(point)
            if len(self._waiting_points) > MOST_POINTS:  # keep every other one from now on
                self._waiting_points, self._keep_every = self._waiting_points[1::2], 2 * self._keep_every

    def has_printed_like(self, name: str) -> bool:
        """Return whether a number in the last lines has a label that shares a word with a metric's name."""
        words = {*_words(name)}
        return any(words & {*_words(match[1])} for match in likely_numbers(self.last_lines, name))

    def missing_metric_text(self, name: str) -> str:
        """Return why the objective of a name has no value, and what to do."""
        kinds = self._line_kinds_by_metric.get(name, {}).values()
        if len(kinds) > 1 and name not in self._metrics_from_json:
            hint = metric_flag_hint(name, [(value.text, value.pattern) for value in kinds])
            return f"the script prints several numbers named {name}, {hint} to choose one"
        matches = likely_numbers(self.last_lines, name)
        texts_with_patterns = [(match[0].strip(), to_pattern(match[1])) for match in matches]
        if texts_with_patterns and name not in self._patterns:
            hint = metric_flag_hint(name, texts_with_patterns)
            return f"the script printed no {name}, but {hint} if that is it, or correct --objective"
        expected = f"a line that is a JSON object, {{\"{name}\": 0.5}}, or '{name} 0.5'"
        if self._patterns:
            expected = "a line in which its --metric finds a number"
        if self._patterns and name not in self._patterns:
            expected = f"--metric '{name}=PATTERN' to say where it is"
        last_line = one_line(self.last_lines[-1], 120) if self.last_lines else "(none)"
        return f"the script printed no {name}: expected {expected}; its last line: {last_line}"

    def report_waiting_points(self) -> None:
        """Report the points whose places were unknown; call it when the script has ended well."""
        for number, point in enumerate(self._waiting_points, 1):  # spread evenly over the budget
            self._report(self._context.budget * min(1.0, number * self._keep_every / self._points_read), point)

    def _find_by_names(self, line: str) -> dict[str, float]:
        """Return the numbers of a JSON object; of text, those of objectives and of the progress."""
        values = _parse_json_numbers(line)
        if values:
            only_in_text_so_far = self._line_kinds_by_metric.keys() - self._metrics_from_json
            self._forget_curve_if_objective(values.keys() & only_in_text_so_far)
            self._metrics_from_json |= values.keys() & self._objective_names
            return values
        objectives = self._objective_names - self._metrics_from_json - {"seconds"}  # those are measured
        progress = set() if self._curve_position is None else self._curve_position.names
        for name in objectives | progress:
            matches = find_by_name(line, name)
            are_unambiguous = [name not in objectives or self._register_line_kind(name, match) for match in matches]
            if are_unambiguous and all(are_unambiguous):
                values[name] = matches[-1].value
        return values

    def _register_line_kind(self, name: str, value: "NamedValue") -> bool:
        """Register the kind of line that a value is from; return whether it is the metric's only kind so far.

        The first exact line replaces the others and forgets their curve. A second kind removes the metric's value.
        """
        kinds = self._line_kinds_by_metric.setdefault(name, {})
        first = next(iter(kinds.values()), value)
        if first.exact and not value.exact:
            return False
        if value.exact and not first.exact:
            kinds.clear()
            self._forget_curve_if_objective({name})
        if len(kinds) < MOST_SUGGESTIONS:
            kinds.setdefault(value.words_before, value)
        if len(kinds) > 1:
            self.metrics.pop(name, None)
        return len(kinds) == 1

    def _forget_curve_if_objective(self, names: Iterable[str]) -> None:
        """Forget the points of the curve, because a better source of an objective was found."""
        if self._objective_names & {*names}:
            self._waiting_points, self._next_point = [], {}
            self._keep_every, self._points_read = 1, 0

    def _report(self, share: float, point: dict[str, float]) -> None:
        share = min(1.0, share)
        # At most MOST_POINTS points, and in any case the one that ends the budget.
        if share > self._last_share + 1 / MOST_POINTS or (share > self._last_share and share >= self._context.budget):
            self._last_share = share
            self._context.report_all(share, point)


def find_by_patterns(line: str, patterns: Mapping[str, re.Pattern[str]]) -> dict[str, float]:
    """Return the last number that each pattern finds in a line, by metric."""
    values = {}
    for name, pattern in patterns.items():
        for match in pattern.finditer(line):
            with contextlib.suppress(TypeError, ValueError):  # the group did not match, or matched no number (1.2.3)
                values[name] = float(match[1])
    return values


def _parse_json_numbers(line: str) -> dict[str, float]:
    """Return the numbers of a line that is a JSON object, by name; {} for other lines."""
    data: dict[str, Any] = {}
    if line.strip().startswith("{"):
        with contextlib.suppress(ValueError):
            data = parse_json(line)
    return {name: value for name, value in data.items() if isinstance(value, float)}


@dataclass(frozen=True)
class NamedValue:
    """A value of a metric that was found by its name.

    Args:
        value: The value.
        exact: Whether the label is the name alone; otherwise, it ends with the name.
        words_before: Words before the name, which tell kinds of lines apart: ('train',) in 'train loss 2.1'.
        text: Label and number as they were printed.
        pattern: Pattern for `--metric` that finds this kind of line.
    """

    value: float
    exact: bool
    words_before: tuple[str, ...]
    text: str
    pattern: str


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
    for match in NUMBER_WITH_LABEL.finditer(line[:MAX_SEARCHED_CHARACTERS]):
        words = _words(match[1])
        exact = words == name_words
        if words[-len(name_words) :] == name_words and (exact or not any(value.exact for value in values)):
            text_before = NUMBER_ALONE.sub("0", line[: match.start()])
            words_before = [*_words(text_before), *words[: -len(name_words)]]
            # No numbers, no units.
            distinctive_words = tuple(word for word in words_before if word.isalpha() and len(word) > 2)
            word_before = re.search(rf"{WORD}[^A-Za-z]*$", text_before)  # the word before the label, if on the line
            pattern = to_pattern((word_before[0] if word_before else "") + match[1])
            if exact:
                values.clear()
            values.append(NamedValue(float(match[2]), exact, distinctive_words, match[0].strip(), pattern))
    return values


def likely_numbers(lines: Iterable[str], name: str) -> list[re.Match[str]]:
    """Return the matches of `NUMBER_WITH_LABEL` in lines that may be a metric, the likeliest first.

    A label that shares words with the metric's name is likelier, then one that has a word of the same kind, and then
    one with similar letters: the name may be misspelt.

    Args:
        lines: Last lines of the output.
        name: Name of the metric.
    """
    latest = {match[1]: match for line in lines for match in NUMBER_WITH_LABEL.finditer(line[:MAX_SEARCHED_CHARACTERS])}
    name_words = {*_words(name)}
    words_of_same_kind = {word for kind in METRIC_WORDS_BY_DIRECTION if kind & name_words for word in kind}

    def likeliness(match: re.Match[str]) -> tuple[int, bool, float]:
        words = {*_words(match[1])}
        similarity = difflib.SequenceMatcher(None, name.lower(), match[1].lower()).ratio()
        return len(name_words & words), bool(words_of_same_kind & words), similarity

    latest_first = list(latest.values())[::-1]  # which stays the order of equally likely ones
    return sorted(latest_first, key=likeliness, reverse=True)[:MOST_SUGGESTIONS]


def metric_flag_hint(name: str, texts_with_patterns: Iterable[tuple[str, str]]) -> str:
    """Return the texts, separated by commas, and the flag that reads the first one.

    Args:
        name: Name of the metric.
        texts_with_patterns: Printed texts with the patterns that find them, the likeliest first.
    """
    texts, patterns = zip(*texts_with_patterns, strict=True)
    shown = ", ".join(f"'{one_line(text, 60)}'" for text in texts)
    return f"{shown}: add --metric {shlex.quote(one_line(f'{name}={patterns[0]}', 300))}"


def to_pattern(text: str) -> str:
    """Return a text as a pattern that finds it, with any number in place of its numbers; nan is one too."""
    parts = (re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", part) for part in NUMBER_ALONE.split(text))
    return re.sub(r"\d+", r"\\d+", r"\S+".join(parts))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
