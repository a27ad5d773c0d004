"""The types of what commands print with `--format json`; each command fills its type and prints it with `print_json`.

Those that the report uses too are in `report/data.py`; `output_types` names all. docs/json.md is generated from the
docstrings: an entry under `Args:` describes a key, and `Unit: s.` at its end gives the unit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from evo_tune.forecast import RunForecast
from evo_tune.genome.values import Genome, Value
from evo_tune.options.declare import Option
from evo_tune.report.data import ListedRun, Metrics, Recommendation, RunDetails, RunSummary, TrialSummary
from evo_tune.store.heartbeat import SlotWork


class WatchedRun(Struct, forbid_unknown_fields=True, kw_only=True):
    """The address of a page that follows a run; it is served until Ctrl-C.

    Args:
        run: Name of the run.
        address: Address of the page on this machine; it contains a token.
    """

    run: str
    address: str


class ConvertedRun(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that was written for another tool.

    Args:
        run: Name of the run.
        tool: optuna, tensorboard, mlflow or wandb.
        file: File or folder that was written.
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


class AutoModel(Struct, forbid_unknown_fields=True, kw_only=True):
    """The model at the end of `auto`.

    Args:
        run: Name of the run.
        evaluator: Evaluator that the data was taken for.
        why: Why, in words.
        model: Folder of the model.
        verdict: Verdict in lines: the model to use, how much better it is, and on which data this was measured.
    """

    run: str
    evaluator: str
    why: str
    model: str
    verdict: list[str]


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


class DescribedData(Struct, forbid_unknown_fields=True, kw_only=True):
    """Description of the data by an evaluator, as `describe` prints it.

    Args:
        evaluator: Name of the evaluator.
        fingerprint: Identity of the data; '' if the evaluator declares none.
        lines: What it says, a line each.
    """

    evaluator: str
    fingerprint: str
    lines: list[str]


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
    def of(cls, option: Option) -> DeclaredOption:
        """Return the printed part of an option."""
        return cls(
            group=option.group,
            option=option.name,
            type=option.kind,
            required=option.required,
            default=None if option.required else option.default,
            unit=option.unit,
            bounds=option.bounds,
            gene=option.gene or "",
            help=option.help,
        )


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


class PlannedRun(Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that was not started (`--dry-run`).

    Args:
        evaluator: Name of the evaluator.
        slots: Number of trainings at the same time.
        device: Device of the slots.
        options: Options of the evaluator, by name. Unit: the option's.
        seconds_timed: Durations of full trainings, from timed steps; null if steps cannot be timed. Unit: s.
        forecast: Forecast of the run; null if nothing can be predicted before trainings have ended.
    """

    evaluator: str
    slots: int
    device: str
    options: dict[str, Value | None]
    seconds_timed: tuple[float, ...] | None
    forecast: RunForecast | None


class RunStatus(Struct, forbid_unknown_fields=True, kw_only=True):
    """The present state of a run.

    Args:
        run: Name of the run.
        state: Whether it is running, has ended or was killed, in words.
        running: Whether the run gave a recent sign of life.
        proposed: Number of proposed trials.
        results: Number of trials with a result.
        failed: Number of results that failed.
        pruned: Number of trainings that were stopped early.
        best: Best trial so far.
        seconds_since_last_event: Time since the last write to the journal. Unit: s.
        forecast: Forecast of the whole run; null if it is not running, or too little is known.
        slots: Work of each slot; empty if the run is not running.
    """

    run: str
    state: str
    running: bool
    proposed: int
    results: int
    failed: int
    pruned: int
    best: TrialSummary | None
    seconds_since_last_event: float
    forecast: RunForecast | None
    slots: tuple[SlotWork, ...]


def _now() -> float:
    return round(time.time(), 3)


class _Event(Struct, tag_field="event", forbid_unknown_fields=True, kw_only=True):
    time: float = field(default_factory=_now)


class Begin(_Event, tag="begin", kw_only=True):
    """The first line: the run exists, and its slots are being opened.

    Args:
        run: Name of the run.
        folder: Folder of the run.
        evaluator: Evaluator as the run names it.
        strategy: Strategy, by name or file.
        objectives: METRIC:min or METRIC:max.
        seed: Seed of the run.
        proposed: Number of trials of earlier sessions; they are not repeated.
        results: Number of those trials that have a result.
    """

    run: str
    folder: str
    evaluator: str
    strategy: str
    objectives: list[str]
    seed: int
    proposed: int
    results: int


class Proposed(_Event, tag="proposed", kw_only=True):
    """A trial was proposed.

    Args:
        id: Number of the trial in the run, from 0.
        generation: Number of its generation, from 0.
        operator: Operator that made the genome.
        parents: Trials from which the genome was made.
        genome: Values of the genes, by name.
        budget: Share of a full training at which it stops. Unit: full trainings.
        resumes: Trial whose training it continues.
        extra_seed: Number of the extra seed; 0: the first seed of the genome.
    """

    id: int
    generation: int
    operator: str
    parents: tuple[int, ...]
    genome: Genome
    budget: float
    resumes: int | None
    extra_seed: int


class Widened(_Event, tag="widened", kw_only=True):
    """A gene has a wider range for all later trials.

    Args:
        gene: Name of the gene.
        range: Its new range.
        reason: Why the run widened it.
    """

    gene: str
    range: str
    reason: str


class Result(TrainingResult, tag_field="event", tag="result", kw_only=True):
    """The result of a trial is on disk.

    Args:
        time: Time at which the line was printed. Unit: seconds since 1970.
        id: Number of the trial.
    """

    time: float = field(default_factory=_now)
    id: int


class NewBest(_Event, tag="best", kw_only=True):
    """Another trial is the best; the event follows its result.

    Args:
        id: Number of the trial.
        metric: Metric of the first objective.
        value: Its value, the mean if the genome was trained with several seeds. Unit: the metric's.
    """

    id: int
    metric: str
    value: float


class Fresh(_Event, tag="fresh", kw_only=True):
    """A training of the final comparison has ended.

    Args:
        id: Trial whose genome was trained.
        seed: Seed of the training.
        status: ok, or the kind of failure.
        metrics: Values by name; null if not finite. Unit: the metric's.
        seconds: Duration of the training. Unit: s.
        error: Cause of the failure, in one line.
    """

    id: int
    seed: int
    status: str
    metrics: Metrics
    seconds: float
    error: str | None


class Stopping(_Event, tag="stopping", kw_only=True):
    """No further training will start, after Ctrl-C, SIGTERM, SIGHUP or an error that is reported at the end."""


class End(RunSummary, tag_field="event", tag="end", kw_only=True):
    """The last line: the state of the run. If it is missing, standard error has the reason.

    Args:
        time: Time at which the line was printed. Unit: seconds since 1970.
        exit_code: Exit code of the command.
    """

    time: float = field(default_factory=_now)
    exit_code: int


EVENTS = Begin | Proposed | Widened | Result | NewBest | Fresh | Stopping | End
"""The types of the lines that `run` and `resume` print with `--format jsonl`."""


def output_types() -> dict[str, Any]:
    """Return the type that each command prints with `--format json`."""
    from evo_tune.cli.training.devices import Devices
    from evo_tune.cli.training.scaling import ScaledRecipe
    from evo_tune.loop.proposing import Verification

    return {
        "auto": AutoModel,
        "run": RunSummary,
        "run --dry-run": PlannedRun,
        "auto --dry-run": PlannedRun,
        "resume": RunSummary,
        "list": list[ListedRun],
        "status": RunStatus,
        "show": RunDetails,
        "watch": WatchedRun,
        "mcp": AgentTools,
        "best": Recommendation | list[Recommendation],
        "report": WrittenReport,
        "convert": ConvertedRun,
        "verify": Verification,
        "describe": DescribedData,
        "evaluators": list[EvaluatorSummary] | DeclaredEvaluator,
        "strategies": list[StrategySummary],
        "new": NewEvaluator,
        "evaluate": GenomeResult,
        "export": ExportedModel,
        "predict": Predicted,
        "devices": Devices,
        "scale": ScaledRecipe,
        "completion": ShellScript,
    }
