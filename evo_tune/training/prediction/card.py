"""The model card: README.md of a model's folder, in the format of Hugging Face (YAML front matter, then Markdown).

Names of columns, classes and files come from data: they are escaped for YAML, Markdown and HTML.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from evo_tune import __version__
from evo_tune.text import escape_unprintable, one_line
from evo_tune.training.models.model_files import CONFIG, read_json
from evo_tune.training.prediction.about import TrainingFacts, read_training_facts
from evo_tune.training.prediction.ensemble import ENSEMBLE, Ensemble, member_name, read_ensemble
from evo_tune.training.prediction.loading import SAMPLE_MODELS
from evo_tune.training.tuned import FINE_TUNING_FILE
from evo_tune.training.tuning.weights import ADAPTER

CARD_FILE = "README.md"

# Maximum number of classes or columns that are listed.
MOST_NAMES = 20


class Result(NamedTuple):
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
    # The notes of a training are in a file of their own after fine-tuning, else in the config, which names a class.
    notes = read_json(folder, FINE_TUNING_FILE) if FINE_TUNING_FILE in names else config
    if FINE_TUNING_FILE not in names and "class" not in config:  # a model that evo-tune did not write
        config, notes = {}, {}
    facts, ensemble = read_training_facts(folder, notes), None
    if config.get("class") == ENSEMBLE:
        ensemble, config = read_ensemble(folder, config), read_json(folder / member_name(0), CONFIG)
    elif not facts.genome:  # the model has no notes of its training
        facts = TrainingFacts(genome=dict(genome), metrics=dict(metrics))
    (folder / CARD_FILE).write_text(card_text(origin, facts, config, ensemble), encoding="utf-8")


def task_of(config: Mapping[str, Any]) -> str:
    """Return the task of a model, as Hugging Face names it; '' if it is none of evo-tune's kinds."""
    if str(config.get("class")) not in SAMPLE_MODELS:
        return "text-generation" if config else ""
    kind = SAMPLE_MODELS[config["class"]][1].kind
    scaled = "regression" if config.get("scale") else "classification"  # the scale of the target of a table
    return f"{kind}-forecasting" if kind == "time-series" else f"{kind}-{scaled}"


# Arguments of `evo-tune predict DIR`, and a call of the model, by kind of task.
USES = {
    "tabular": ("new.csv --output predicted.csv", 'model.predict(pandas.read_csv("new.csv"))'),
    "time": ("past.csv --output forecast.csv", 'model.predict(pandas.read_csv("past.csv"))'),
    "text": ("new.csv --output predicted.csv", 'model.predict(["a text"])'),
    "image": ("photos/ --output predicted.csv", 'model.predict(["photo.png"])'),
    "text-generation": ("--prompt 'The '", 'model.generate("The ", 200)'),
}


def card_text(origin: Origin, facts: TrainingFacts, config: Mapping[str, Any], ensemble: Ensemble | None = None) -> str:
    """Return the text of a model card, from the template card.jinja.

    Args:
        origin: Where the model comes from.
        facts: The training of the model.
        config: config.json, or adapter.json, of the model or of the first member; empty for a model of another kind.
        ensemble: The ensemble that the model is; None: it is one model.
    """
    task, labels = task_of(config), config.get("labels")
    cli_arguments, python_call = USES.get(task) or USES.get(task.split("-")[0], ("", ""))
    results_of_this_model = _test_results(facts)
    # Another program may have written the entries of the config with other types.
    tables = {
        name: config[name] if isinstance(config.get(name), dict) else {} for name in ("series", "columns", "model")
    }
    return _template().render(
        **{"origin": origin, "facts": facts, "config": config, "task": task, "version": __version__, **tables},
        ensemble=ensemble,
        results=[*origin.results, *results_of_this_model],
        results_of_this_model=results_of_this_model,
        is_classification=task.endswith("-classification"),
        is_adapter=bool(config.get("base")) and "class" not in config,  # adapter.json names no class
        cli_arguments=cli_arguments,
        python_call=python_call,
        data_file=Path(str(facts.options.get("data") or "")).name,
        labels=labels if isinstance(labels, list) else [],
        options=json.dumps(facts.options, indent=1).replace("`", "\\u0060"),
    )


def _template() -> Template:
    """Return the template of a card, which escapes each value for Markdown unless a filter made it safe."""

    def to_yaml(value: object) -> Markup:  # JSON is valid YAML
        text = escape_unprintable(value)[:200] if isinstance(value, str) else value
        return Markup(json.dumps(text, ensure_ascii=not isinstance(value, str)))

    def join_names(names: Sequence[Any]) -> Markup:
        omitted = len(names) - MOST_NAMES
        shown = ", ".join(escape_markdown(name) for name in names[:MOST_NAMES])
        return Markup(shown + (f" and {omitted} more" if omitted > 0 else ""))

    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape_markdown(value),
    )
    environment.filters |= {
        "yaml": to_yaml,
        "names": join_names,
        "code": lambda text: Markup(one_line(text, 300).replace("`", "'")),
    }
    return environment.from_string(Path(__file__).with_name("card.jinja").read_text(encoding="utf-8"))


# Places in an address; a backslash there keeps Markdown from making a link of it.
BEFORE_LINK_MARK = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)

# Place before the sign of a list, or of a line that underlines a heading, at the start of a line.
BEFORE_LIST_MARKER = re.compile(r"^(\d*)(?=[-+=.)](?:\s|$))")


def escape_markdown(text: object) -> str:
    """Return text of unknown origin as Markdown that shows it on one line: no link, no list, no HTML."""
    line = re.sub(r"([\\`*_{}\[\]#|<>~&$@])", r"\\\1", one_line(str(text), 200))
    return BEFORE_LIST_MARKER.sub(r"\1\\", BEFORE_LINK_MARK.sub(r"\\", line))


def _test_results(facts: TrainingFacts) -> list[Result]:
    count = facts.rows.get("test", 0)
    results = []
    for name, value in facts.metrics.items():
        if name.startswith("test_") and value is not None and math.isfinite(value):
            is_proportion = name == "test_accuracy" and count > 0
            error = math.sqrt(max(0.0, value * (1.0 - value)) / count) if is_proportion else None
            results.append(Result(name, value, error, "this model" + (f", {count} samples" if count else "")))
    return results
