"""The types of what commands print with `--format json`; each command fills its type and prints it with `print_json`.

Types of a run are in `cli/output.py`, `cli/session.py` and `report/data.py`, which take longer to import.
docs/make_json.py names the type of each command, and makes docs/json.md from the docstrings: an entry under `Args:`
describes a key, and `Unit: s.` at its end gives the unit.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from evo_tune.genome.values import Genome, Metrics, Value
from evo_tune.options.declare import Option


class WatchedRun(Struct, forbid_unknown_fields=True, kw_only=True):
    """The address of a page that follows a run; it is served until Ctrl-C.

    Args:
        run: Name of the run; of the latest one, if the page has all runs.
        address: Address of the page on this machine; it contains a token.
    """

    run: str
    address: str


class RunFolder(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that was renamed.

    Args:
        run: Name of the run.
        folder: Its folder.
    """

    run: str
    folder: str


class DeletedRuns(Struct, forbid_unknown_fields=True, kw_only=True):
    """Runs that were deleted.

    Args:
        runs: Names of the runs.
    """

    runs: list[str]


class ConvertedRun(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that was written for another tool.

    Args:
        run: Name of the run.
        tool: optuna.
        file: File that was written.
        results: Number of results in it.
        open: Command that opens it.
    """

    run: str
    tool: str
    file: str
    results: int
    open: str


class WrittenReport(Struct, forbid_unknown_fields=True, kw_only=True):
    """A report that was written.

    Args:
        runs: Names of the runs in it.
        report: File of the report.
    """

    runs: list[str]
    report: str


class TrainingResult(Struct, forbid_unknown_fields=True, kw_only=True):
    """The result of a training.

    Args:
        status: ok, or the kind of failure.
        metrics: Values by name; null if not finite. Unit: the metric's.
        curve: Reports during the training: share of the training, and metrics. Unit: the metric's.
        seconds: Duration of the training. Unit: s.
        device: Device of the training.
        error: Cause of the failure, in one line.
    """

    status: str
    metrics: Metrics
    curve: tuple[tuple[float, Metrics], ...]
    seconds: float
    device: str
    error: str | None


class GenomeResult(TrainingResult, kw_only=True):
    """The result of one genome, from `evaluate`; the exit code is 1 unless the status is ok.

    Args:
        genome: Values of the genes, by name.
    """

    genome: Genome


class ExportedModel(Struct, forbid_unknown_fields=True, kw_only=True):
    """A model that was trained once more and saved.

    Args:
        run: Name of the run.
        trial: Trial whose genome was trained.
        genome: Values of the genes, by name.
        folder: Folder that was written.
        files: Names of the files in it.
        metrics: Metrics of this training by name, each in its own unit.
    """

    run: str
    trial: int
    genome: Genome
    folder: str
    files: list[str]
    metrics: Mapping[str, Any]


class Predicted(Struct, forbid_unknown_fields=True, kw_only=True):
    """Predictions of an exported model.

    Args:
        model: Folder of the model.
        task: Task of the model: tabular-classification, text-generation, …
        rows: Number of predictions.
        output: File that has them; null without `--output`.
        predictions: The predictions, one object for each sample; null with `--output` or `--prompt`.
        metrics: Metrics of the predictions if INPUT has the targets, by name. Unit: the metric's.
        remarks: Differences between INPUT and the training data, each in one line.
        text: Continuation of the prompt; null without `--prompt`.
    """

    model: str
    task: str
    rows: int
    output: str | None
    predictions: list[dict[str, Any]] | None
    metrics: Mapping[str, Any]
    remarks: list[str]
    text: str | None


class EvaluatorSummary(Struct, forbid_unknown_fields=True, kw_only=True):
    """An evaluator that can be used by name.

    Args:
        evaluator: Name of the evaluator.
        origin: Origin (file, entry point or bundled), and the evaluators of the same name that it hides.
        summary: First line of its docstring.
        file: File of the evaluator.
    """

    evaluator: str
    origin: str
    summary: str
    file: str


class DeclaredObjective(Struct, forbid_unknown_fields=True, kw_only=True):
    """An objective of an evaluator.

    Args:
        metric: Metric that is optimised.
        direction: min or max.
    """

    metric: str
    direction: str


class DeclaredOption(Struct, forbid_unknown_fields=True, kw_only=True):
    """An option, as `-o` or `-s` takes it.

    Args:
        group: Title of its group; '' for none.
        option: Name of the option.
        type: Type of its values, in words.
        required: Whether it must be given.
        default: Default value; null for a required option. Unit: the option's.
        unit: Unit of its values; '' for none.
        bounds: Interval of its numbers; '' for none.
        gene: Gene that `--gene NAME` makes of it; '' if the gene must be written out, or the option cannot be one.
        help: Description of the option.
    """

    group: str
    option: str
    type: str
    required: bool
    default: Value | None
    unit: str
    bounds: str
    gene: str
    help: str

    @classmethod
    def of(cls, option: Option) -> "DeclaredOption":
        """Return the printed part of an option."""
        default = None if option.required else option.default
        same = {name: getattr(option, name) for name in ("group", "required", "unit", "bounds", "help")}
        return cls(option=option.name, type=option.kind, default=default, gene=option.gene or "", **same)


class DeclaredEvaluator(EvaluatorSummary, kw_only=True):
    """An evaluator with its declarations.

    Args:
        objectives: Objectives, in order of importance.
        metrics: Units of its metrics, by name.
        tests: Names of the metrics on the test set, by metric.
        supports: Features that it supports beyond full trainings.
        options: Options of the evaluator.
    """

    objectives: list[DeclaredObjective]
    metrics: Mapping[str, str]
    tests: Mapping[str, str]
    supports: tuple[str, ...]
    options: list[DeclaredOption]


class StrategySummary(Struct, forbid_unknown_fields=True, kw_only=True):
    """A strategy that can be used by name.

    Args:
        strategy: Name of the strategy.
        objectives: one, several, or - if it cannot be loaded.
        summary: First line of its docstring, or the error that it raises.
        options: Options of the strategy.
    """

    strategy: str
    objectives: str
    summary: str
    options: list[DeclaredOption]


class NewEvaluator(Struct, forbid_unknown_fields=True, kw_only=True):
    """The file of a new evaluator.

    Args:
        evaluator: Name of the evaluator.
        file: File that was written.
    """

    evaluator: str
    file: str


class ShellScript(Struct, forbid_unknown_fields=True, kw_only=True):
    """The completion script of a shell.

    Args:
        shell: bash, zsh or fish.
        script: Text of the script.
    """

    shell: str
    script: str


class ProposedGenomes(Struct, forbid_unknown_fields=True, kw_only=True):
    """Genomes and patches that were submitted to a run.

    Args:
        run: Name of the run.
        source: Who proposed them.
        running: Whether the run gave a recent sign of life; if not, a resume trains them.
        waiting: Number of submitted genomes that the run has not taken yet.
        genomes: The genomes with all genes, before the evaluator's repair.
        patches: Names of the submitted patches; after each, the best genome with it is trained.
    """

    run: str
    source: str
    running: bool
    waiting: int
    genomes: list[Genome]
    patches: list[str]


class AgentTool(Struct, forbid_unknown_fields=True, kw_only=True):
    """A tool for coding agents.

    Args:
        name: Name of the tool.
        summary: What it does, in one line.
    """

    name: str
    summary: str


class AgentTools(Struct, forbid_unknown_fields=True, kw_only=True):
    """The tools that `evo-tune mcp` serves.

    Args:
        folders: Folders that the tools may use.
        tools: The tools.
    """

    folders: list[str]
    tools: list[AgentTool]
