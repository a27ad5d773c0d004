"""The model card: README.md of a model's folder, in the format of Hugging Face (YAML front matter, then Markdown).

Names of columns, classes and files come from data: they are escaped for YAML, Markdown and HTML.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from evo_tune import __version__
from evo_tune.text import one_line, printable
from evo_tune.training.models.model_files import CONFIG, read_json
from evo_tune.training.prediction.about import TrainingFacts, read_training_facts
from evo_tune.training.tuned import NOTES
from evo_tune.training.tuning.weights import ADAPTER

CARD_FILE = "README.md"

# Maximum number of classes or columns that are listed.
MOST_NAMES = 20


@dataclass(frozen=True)
class Result:
    """A metric on the test set.

    Args:
        name: Name of the metric.
        value: Its value, or the mean over seeds.
        error: Standard error; None if unknown.
        measured_on: Data or seed that the value belongs to, in words.
    """

    name: str
    value: float
    error: float | None
    measured_on: str


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Args:
        run: Name of the run.
        trial: Number of the trial.
        evaluator: Name of the evaluator.
        summary: First line of the evaluator's documentation.
        command: Command that trained the model.
        results: Results of the run's final comparison and of baselines.
        verdict: Result of the run, in one line; '' for nothing.
    """

    run: str
    trial: int
    evaluator: str
    summary: str = ""
    command: str = ""
    results: Sequence[Result] = field(default_factory=tuple)
    verdict: str = ""


def write_card(folder: Path, origin: Origin, metrics: Mapping[str, float], genome: Mapping[str, Any]) -> None:
    """Write README.md to a model's folder, unless the evaluator wrote its own.

    Args:
        folder: Folder of the model.
        origin: Where the model comes from.
        metrics: Metrics of its training.
        genome: Values of its genes.

    Raises:
        RecipeError: The folder's notes cannot be read.
    """
    if (folder / CARD_FILE).exists():
        return
    names = {path.name for path in folder.iterdir()}
    config_file = next((file for file in (ADAPTER, CONFIG) if file in names), None)
    config = {} if config_file is None else read_json(folder, config_file)
    notes = read_json(folder, NOTES) if NOTES in names else config
    if NOTES not in names and "class" not in config:  # a model of another kind
        config, notes = {}, {}
    facts = read_training_facts(folder, notes)
    # Without a genome, the model has no notes of its training.
    facts = facts if facts.genome else TrainingFacts(genome=dict(genome), metrics=dict(metrics))
    (folder / CARD_FILE).write_text(card_text(origin, facts, config), encoding="utf-8")


def task_of(config: Mapping[str, Any]) -> str:
    """Return the task of a model, as Hugging Face names it; '' if it is none of evo-tune's kinds."""
    task_by_class = {
        "Forecaster": "time-series-forecasting",
        "FTTransformer": "tabular-regression" if config.get("scale") else "tabular-classification",  # of the target
        "TextClassifier": "text-classification",
        "ViT": "image-classification",
    }
    return task_by_class.get(str(config.get("class")), "text-generation") if config else ""


def card_text(origin: Origin, facts: TrainingFacts, config: Mapping[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        origin: Where the model comes from.
        facts: The training of the model.
        config: config.json, or adapter.json; empty for a model of another kind.
    """
    task = task_of(config)
    results = [*origin.results, *_test_results(facts)]
    description = f"A model for {task.replace('-', ' ')}" if task else "A model"
    evaluator = _escape_code_span(origin.evaluator)
    introduction = f"{description}, found by evo-tune {__version__} with the evaluator `{evaluator}`."
    if origin.summary:
        introduction += f" Summary of the evaluator: {escape_markdown(origin.summary)}"
    parts = [
        _front_matter(origin, facts, task, results),
        f"# {escape_markdown(origin.run)}, trial {origin.trial}\n\n{introduction}",
        _use_section(task, config),
        _results_section(results, origin.verdict),
        _data_section(facts, config),
        _training_section(origin, facts),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(task, config)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# Places in an address; a backslash there keeps Markdown from making a link of it.
BEFORE_LINK_MARK = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)

# Place before the sign of a list, or of a line that underlines a heading, at the start of a line.
BEFORE_LIST_MARKER = re.compile(r"^(\d*)(?=[-+=.)](?:\s|$))")


def escape_markdown(text: object) -> str:
    """Return text of unknown origin as Markdown that shows it on one line: no link, no list, no HTML."""
    line = re.sub(r"([\\`*_{}\[\]#|<>~&$@])", r"\\\1", one_line(str(text), 200))
    return BEFORE_LIST_MARKER.sub(r"\1\\", BEFORE_LINK_MARK.sub(r"\\", line))


def _to_yaml(value: object) -> str:
    """Return a value as JSON, which is valid YAML."""
    if isinstance(value, str):
        return json.dumps(printable(value)[:200], ensure_ascii=False)
    return json.dumps(value)


def _test_results(facts: TrainingFacts) -> list[Result]:
    count = facts.rows.get("test", 0)
    results = []
    for name, value in facts.metrics.items():
        if name.startswith("test_") and value is not None and math.isfinite(value):
            is_proportion = name == "test_accuracy" and count > 0
            error = math.sqrt(max(0.0, value * (1.0 - value)) / count) if is_proportion else None
            results.append(Result(name, value, error, "this model" + (f", {count} samples" if count else "")))
    return results


def _front_matter(origin: Origin, facts: TrainingFacts, task: str, results: Sequence[Result]) -> str:
    lines = ["---", "library_name: evo-tune"]
    if task:
        lines.append(f"pipeline_tag: {task}")
    lines += ["tags:", "- evo-tune", f"- {_to_yaml(origin.evaluator)}"]
    results_of_this_model = [result for result in results if result.measured_on.startswith("this model")]
    if task and results_of_this_model:
        lines += ["metrics:", *(f"- {_to_yaml(result.name.removeprefix('test_'))}" for result in results_of_this_model)]
        data = str(facts.options.get("data") or "default data of the evaluator")
        lines += ["model-index:", f"- name: {_to_yaml(origin.run)}", "  results:", "  - task:", f"      type: {task}"]
        lines += [
            "    dataset:",
            f"      name: {_to_yaml(Path(data).name)}",
            "      type: private",
            "      split: test",
        ]
        lines.append("    metrics:")
        for result in results_of_this_model:
            lines += [
                f"    - type: {_to_yaml(result.name.removeprefix('test_'))}",
                f"      value: {_to_yaml(result.value)}",
            ]
            lines.append(f"      name: {_to_yaml(result.name)}")
    return "\n".join([*lines, "---"])


def _escape_code_span(text: str) -> str:
    """Return text for a span of code."""
    return one_line(text, 300).replace("`", "'")


def _use_section(task: str, config: Mapping[str, Any]) -> str:
    if not task:
        return "## Use\n\nThe files have the evaluator's own format: its documentation says how to load them."
    cli_arguments, python_call = {
        "tabular": ("new.csv --output predicted.csv", 'model.predict(pandas.read_csv("new.csv"))'),
        "time": ("past.csv --output forecast.csv", 'model.predict(pandas.read_csv("past.csv"))'),
        "text": ("new.csv --output predicted.csv", 'model.predict(["a text"])'),
        "image": ("photos/ --output predicted.csv", 'model.predict(["photo.png"])'),
    }.get(task.split("-")[0], ("", ""))
    if task == "text-generation":
        cli_arguments, python_call = "--prompt 'The '", 'model.generate("The ", 200)'
    proba_line = (
        "\nmodel.predict_proba(…)  # the probability of each class of model.classes_" if "classif" in task else ""
    )
    import_line = "import pandas\n" if task.startswith(("tabular", "time")) else ""
    is_adapter = config.get("base") and "class" not in config
    note = "\n\nIt is an adapter: if there is no folder `base` here, give its base with `--base`." if is_adapter else ""
    return (
        "## Use\n\n`DIR` is this folder. Loading it executes no code from it.\n\n"
        f"```sh\nevo-tune predict DIR {cli_arguments}\n```\n\n"
        f'```python\n{import_line}import evo_tune\n\nmodel = evo_tune.load_model("DIR")\n'
        f"{python_call}{proba_line}\n```{note}"
    )


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _results_section(results: Sequence[Result], verdict: str) -> str:
    if not results:
        return ""
    rows = []
    for result in results:
        error = "" if result.error is None else f"± {result.error:.2g}"
        rows.append((escape_markdown(result.name), f"{result.value:.6g}", error, escape_markdown(result.measured_on)))
    verdict_text = f"\n\n{escape_markdown(verdict)}" if verdict else ""
    table = _markdown_table(("metric", "value", "standard error", "of"), rows)
    return f"## Results on the test set\n\n{table}{verdict_text}"


def _data_section(facts: TrainingFacts, config: Mapping[str, Any]) -> str:
    options = facts.options
    rows = [("file", escape_markdown(Path(str(options.get("data") or "")).name) or "the evaluator's default data")]
    for name in ("time", "key", "target", "text", "label"):
        if options.get(name):
            rows.append((name, escape_markdown(options[name])))
    if facts.data:
        rows.append(("SHA-256 of data and split", escape_markdown(facts.data)))
    rows += [(f"samples: {escape_markdown(name)}", str(count)) for name, count in facts.rows.items()]
    if isinstance(series_format := config.get("series"), dict):
        rows += [
            (f"series: {escape_markdown(name)}", escape_markdown(value))
            for name, value in series_format.items()
            if not isinstance(value, dict)  # a table shows single values only
        ]
    labels = config.get("labels")
    if isinstance(labels, list) and labels:
        rows.append(("classes", _join_names(labels)))
    columns = config.get("columns")
    if isinstance(columns, dict):
        for kind, column_names in columns.items():
            if column_names:
                rows.append((f"columns: {escape_markdown(kind)}", _join_names(list(column_names))))
    return f"## Data\n\n{_markdown_table(('', ''), rows)}"


def _join_names(names: Sequence[Any]) -> str:
    omitted = len(names) - MOST_NAMES
    return ", ".join(escape_markdown(name) for name in names[:MOST_NAMES]) + (
        f" and {omitted} more" if omitted > 0 else ""
    )


def _training_section(origin: Origin, facts: TrainingFacts) -> str:
    rows = [
        ("run", escape_markdown(origin.run)),
        ("trial", str(origin.trial)),
        ("evo-tune", escape_markdown(__version__)),
        ("seed", "" if facts.seed is None else str(facts.seed)),
        ("device, threads, precision", ", ".join(map(escape_markdown, msgspec.structs.astuple(facts.evaluated)))),
    ]
    facts_table = _markdown_table(("", ""), [row for row in rows if row[1]])
    command_block = f"\n\n```sh\n{_escape_code_span(origin.command)}\n```" if origin.command else ""
    genome = _markdown_table(
        ("gene", "value"), [(escape_markdown(name), escape_markdown(value)) for name, value in facts.genome.items()]
    )
    options = json.dumps(facts.options, indent=1).replace("`", "\\u0060")
    recipe = f"\n\n### Recipe\n\nAll options of the training:\n\n```json\n{options}\n```" if facts.options else ""
    return f"## Training\n\n{facts_table}{command_block}\n\n### Genome\n\n{genome}{recipe}"


def _limits(task: str, config: Mapping[str, Any]) -> list[str]:
    limits = [
        "The test samples come from the same data as the training samples. Samples of another time, place or source "
        "may be predicted worse.",
    ]
    if "classif" in task:
        limits.append("It knows only the classes above. The probabilities are not calibrated.")
    if task.startswith("tabular"):
        limits.append("Categories that the training rows do not have count as missing. Other columns are ignored.")
    model_config = config.get("model")
    if isinstance(model_config, dict) and task.startswith("time"):
        limits.append(
            f"It reads the last {escape_markdown(model_config.get('context'))} values of a series and forecasts "
            f"{escape_markdown(model_config.get('horizon'))}. The frequency must be that of the training table."
        )
    if isinstance(model_config, dict) and task.startswith("image"):
        height, width = (escape_markdown(model_config.get(name)) for name in ("image_height", "image_width"))
        limits.append(f"Images are resized to {height} by {width} pixels.")
    if isinstance(model_config, dict) and task == "text-classification":
        length, unit = (escape_markdown(model_config.get(name)) for name in ("length", "unit"))
        limits.append(f"It reads the first {length} {unit} of a text.")
    if task == "text-generation":
        limits.append("It writes text that resembles its training text. What it says may be false.")
    return limits
