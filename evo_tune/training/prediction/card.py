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

from evo_tune import __version__
from evo_tune.text import one_line, printable
from evo_tune.training.models.model_files import CONFIG, read_json
from evo_tune.training.prediction.about import TrainingFacts, read_training_facts
from evo_tune.training.tuned import NOTES
from evo_tune.training.tuning.weights import ADAPTER

CARD_FILE = "README.md"

MOST_NAMES = 20
"""Maximum number of classes or columns that are listed."""


@dataclass(frozen=True)
class Result:
    """A metric on the test set.

    Args:
        name: Name of the metric.
        value: Its value, or the mean over seeds.
        error: Standard error; None if unknown.
        of: Data or seed that the value belongs to, in words.
    """

    name: str
    value: float
    error: float | None
    of: str


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
    config, about = _read(folder)
    about = about if about.genome else TrainingFacts(genome=dict(genome), metrics=dict(metrics))
    (folder / CARD_FILE).write_text(card_text(origin, about, config), encoding="utf-8")


def _read(folder: Path) -> tuple[dict[str, Any], TrainingFacts]:
    """Return the config and the notes of a model; empty ones for a model of another kind."""
    names = {path.name for path in folder.iterdir()}
    name = next((one for one in (ADAPTER, CONFIG) if one in names), None)
    config = {} if name is None else read_json(folder, name)
    notes = read_json(folder, NOTES) if NOTES in names else config
    own = NOTES in names or "class" in config
    return (config if own else {}), (read_training_facts(folder, notes) if own else TrainingFacts())


def task_of(config: Mapping[str, Any]) -> str:
    """Return the task of a model, as Hugging Face names it; '' if it is none of evo-tune's kinds."""
    kind = "regression" if config.get("scale") else "classification"
    names = {"FTTransformer": f"tabular-{kind}", "TextClassifier": "text-classification", "ViT": "image-classification"}
    names["Forecaster"] = "time-series-forecasting"
    if not config:
        return ""
    return names.get(str(config.get("class")), "text-generation")


def card_text(origin: Origin, about: TrainingFacts, config: Mapping[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        origin: Where the model comes from.
        about: The training of the model.
        config: config.json, or adapter.json; empty for a model of another kind.
    """
    task = task_of(config)
    results = [*origin.results, *_tested(about)]
    parts = [
        _front_matter(origin, about, task, results),
        f"# {escape_markdown(origin.run)}, trial {origin.trial}\n\n{_introduction(origin, task)}",
        _use(task, config),
        _results(results, origin.verdict),
        _data(about, config),
        _training(origin, about),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(task, config)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


AUTOLINK = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)
"""Places in an address; a backslash there keeps Markdown from making a link of it."""

LIST = re.compile(r"^(\d*)(?=[-+=.)](?:\s|$))")
"""Place before the sign of a list."""


def escape_markdown(text: object) -> str:
    """Return text of unknown origin as Markdown that shows it on one line: no link, no list, no HTML."""
    line = re.sub(r"([\\`*_{}\[\]#|<>~&$@])", r"\\\1", one_line(str(text), 200))
    return LIST.sub(r"\1\\", AUTOLINK.sub(r"\\", line))


def _yaml(value: object) -> str:
    """Return a value as YAML, which includes JSON."""
    if isinstance(value, str):
        return json.dumps(printable(value)[:200], ensure_ascii=False)
    return json.dumps(value)


def _tested(about: TrainingFacts) -> list[Result]:
    count = about.rows.get("test", 0)
    found = []
    for name, value in about.metrics.items():
        if name.startswith("test_") and value is not None and math.isfinite(value):
            share = name == "test_accuracy" and count > 0
            error = math.sqrt(max(0.0, value * (1.0 - value)) / count) if share else None
            found.append(Result(name, value, error, "this model" + (f", {count} samples" if count else "")))
    return found


def _front_matter(origin: Origin, about: TrainingFacts, task: str, results: Sequence[Result]) -> str:
    lines = ["---", "library_name: evo-tune"]
    if task:
        lines.append(f"pipeline_tag: {task}")
    lines += ["tags:", "- evo-tune", f"- {_yaml(origin.evaluator)}"]
    own = [one for one in results if one.of.startswith("this model")]
    if task and own:
        lines += ["metrics:", *(f"- {_yaml(one.name.removeprefix('test_'))}" for one in own)]
        data = str(about.options.get("data") or "default data of the evaluator")
        lines += ["model-index:", f"- name: {_yaml(origin.run)}", "  results:", "  - task:", f"      type: {task}"]
        lines += ["    dataset:", f"      name: {_yaml(Path(data).name)}", "      type: private", "      split: test"]
        lines.append("    metrics:")
        for one in own:
            lines += [f"    - type: {_yaml(one.name.removeprefix('test_'))}", f"      value: {_yaml(one.value)}"]
            lines.append(f"      name: {_yaml(one.name)}")
    return "\n".join([*lines, "---"])


def _introduction(origin: Origin, task: str) -> str:
    what = f"A model for {task.replace('-', ' ')}" if task else "A model"
    told = f" Summary of the evaluator: {escape_markdown(origin.summary)}" if origin.summary else ""
    return f"{what}, found by evo-tune {__version__} with the evaluator `{_code(origin.evaluator)}`.{told}"


def _code(text: str) -> str:
    """Return text for a span of code."""
    return one_line(text, 300).replace("`", "'")


def _use(task: str, config: Mapping[str, Any]) -> str:
    if not task:
        return "## Use\n\nThe files have the evaluator's own format: its documentation says how to load them."
    inputs, python = {
        "tabular": ("new.csv --output predicted.csv", 'model.predict(pandas.read_csv("new.csv"))'),
        "time": ("past.csv --output forecast.csv", 'model.predict(pandas.read_csv("past.csv"))'),
        "text": ("new.csv --output predicted.csv", 'model.predict(["a text"])'),
        "image": ("photos/ --output predicted.csv", 'model.predict(["photo.png"])'),
    }.get(task.split("-")[0], ("", ""))
    if task == "text-generation":
        inputs, python = "--prompt 'The '", 'model.generate("The ", 200)'
    more = "\nmodel.predict_proba(…)  # the probability of each class of model.classes_" if "classif" in task else ""
    first = "import pandas\n" if task.startswith(("tabular", "time")) else ""
    base = config.get("base") and "class" not in config
    note = "\n\nIt is an adapter: if there is no folder `base` here, give its base with `--base`." if base else ""
    return (
        "## Use\n\n`DIR` is this folder. Loading it executes no code from it.\n\n"
        f"```sh\nevo-tune predict DIR {inputs}\n```\n\n"
        f'```python\n{first}import evo_tune\n\nmodel = evo_tune.load_model("DIR")\n{python}{more}\n```{note}'
    )


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _results(results: Sequence[Result], verdict: str) -> str:
    if not results:
        return ""
    rows = [
        (
            escape_markdown(one.name),
            f"{one.value:.6g}",
            "" if one.error is None else f"± {one.error:.2g}",
            escape_markdown(one.of),
        )
        for one in results
    ]
    told = f"\n\n{escape_markdown(verdict)}" if verdict else ""
    return f"## Results on the test set\n\n{_rows(('metric', 'value', 'standard error', 'of'), rows)}{told}"


def _data(about: TrainingFacts, config: Mapping[str, Any]) -> str:
    options = about.options
    rows = [("file", escape_markdown(Path(str(options.get("data") or "")).name) or "the evaluator's default data")]
    for name in ("time", "key", "target", "text", "label"):
        if options.get(name):
            rows.append((name, escape_markdown(options[name])))
    if about.data:
        rows.append(("SHA-256 of data and split", escape_markdown(about.data)))
    rows += [(f"samples: {escape_markdown(name)}", str(count)) for name, count in about.rows.items()]
    if isinstance(form := config.get("series"), dict):
        rows += [
            (f"series: {escape_markdown(name)}", escape_markdown(value))
            for name, value in form.items()
            if not isinstance(value, dict)
        ]
    labels = config.get("labels")
    if isinstance(labels, list) and labels:
        rows.append(("classes", _names(labels)))
    columns = config.get("columns")
    if isinstance(columns, dict):
        for kind, found in columns.items():
            if found:
                rows.append((f"columns: {escape_markdown(kind)}", _names(list(found))))
    return f"## Data\n\n{_rows(('', ''), rows)}"


def _names(names: Sequence[Any]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(escape_markdown(name) for name in names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _training(origin: Origin, about: TrainingFacts) -> str:
    facts = [
        ("run", escape_markdown(origin.run)),
        ("trial", str(origin.trial)),
        ("evo-tune", escape_markdown(__version__)),
        ("seed", "" if about.seed is None else str(about.seed)),
        ("device, threads, precision", ", ".join(escape_markdown(value) for value in vars_of(about.evaluated))),
    ]
    told = _rows(("", ""), [fact for fact in facts if fact[1]])
    typed = f"\n\n```sh\n{_code(origin.command)}\n```" if origin.command else ""
    genome = _rows(
        ("gene", "value"), [(escape_markdown(name), escape_markdown(value)) for name, value in about.genome.items()]
    )
    options = json.dumps(about.options, indent=1).replace("`", "\\u0060")
    recipe = f"\n\n### Recipe\n\nAll options of the training:\n\n```json\n{options}\n```" if about.options else ""
    return f"## Training\n\n{told}{typed}\n\n### Genome\n\n{genome}{recipe}"


def vars_of(struct: Any) -> list[Any]:
    """Return the values of a struct's fields, in order."""
    return [getattr(struct, name) for name in struct.__struct_fields__]


def _limits(task: str, config: Mapping[str, Any]) -> list[str]:
    found = [
        "The test samples come from the same data as the training samples. Samples of another time, place or source "
        "may be predicted worse.",
    ]
    if "classif" in task:
        found.append("It knows only the classes above. The probabilities are not calibrated.")
    if task.startswith("tabular"):
        found.append("Categories that the training rows do not have count as missing. Other columns are ignored.")
    shape = config.get("model")
    if isinstance(shape, dict) and task.startswith("time"):
        found.append(
            f"It reads the last {escape_markdown(shape.get('context'))} values of a series and forecasts "
            f"{escape_markdown(shape.get('horizon'))}. The frequency must be that of the training table."
        )
    if isinstance(shape, dict) and task.startswith("image"):
        height, width = (escape_markdown(shape.get(name)) for name in ("image_height", "image_width"))
        found.append(f"Images are resized to {height} by {width} pixels.")
    if isinstance(shape, dict) and task == "text-classification":
        found.append(
            f"It reads the first {escape_markdown(shape.get('length'))} {escape_markdown(shape.get('unit'))} of a text."
        )
    if task == "text-generation":
        found.append("It writes text that resembles its training text. What it says may be false.")
    return found
