"""The model card: valid for Hugging Face, complete, and safe whatever the data's names are."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

import evo_tune
from evo_tune.plugins.find import find_evaluator
from evo_tune.store.run import Run
from evo_tune.training.prediction.about import TrainingFacts
from evo_tune.training.prediction.card import CARD_FILE, Origin, Result, card_text, escape_markdown, task_of, write_card
from tests.cli.conftest import Typed
from tests.training.prediction.conftest import Exported

pytestmark = pytest.mark.xdist_group("exported")

EVIL = "</td><script>alert(1)</script>\n---\n# [x](javascript:y) `a` | *b* \x1b[31m"


def written(exported: Exported, **more: object) -> str:
    (exported.folder / CARD_FILE).unlink(missing_ok=True)
    result = Result("test_loss", 0.5, 0.25, "this genome, 3 fresh seeds")
    origin = Origin("mine", 3, exported.case.evaluator, "A summary.", "evo-tune export mine model", [result], "It won.")
    write_card(exported.folder, origin, exported.metrics, exported.notes["genome"])
    return (exported.folder / CARD_FILE).read_text(encoding="utf-8")


def test_a_card_is_valid_and_says_where_the_model_is_from(exported: Exported) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="extra hf")
    text, notes = written(exported), exported.notes
    base = exported.bound.options.get("base") if exported.case.options.get("method") == "adapter" else None
    model = evo_tune.load_model(exported.folder, base=base)
    data = hub.ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("evo-tune", model.task)
    assert data.eval_results, "the metrics on the test set are read"
    told = {one.metric_name: one.metric_value for one in data.eval_results}
    assert told.items() <= notes["metrics"].items()
    assert {one.task_type for one in data.eval_results} == {model.task}
    facts = notes["data"], f"| seed | {notes['seed']} |", "± 0.25", "It won", "evo-tune export mine model"
    for fact in facts:
        assert escape_markdown(fact) in text or fact in text, fact
    assert f"| evo-tune | {escape_markdown(evo_tune.__version__)} |" in text
    for name, value in notes["genome"].items():
        assert f"| {escape_markdown(name)} | {escape_markdown(value)} |" in text
    assert "evo-tune predict DIR" in text
    python = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert python
    compile(python[0].replace("(…)", "()"), "card", "exec")
    assert "## Limits" in text
    assert ("| classes |" in text) == model.task.endswith("classification")


@pytest.mark.parametrize("kind", ["FTTransformer", "TextClassifier", "ViT", "Forecaster"])
def test_names_from_data_are_shown_and_not_obeyed(kind: str) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="extra hf")
    options, metrics = {"data": EVIL, "target": EVIL}, {"test_accuracy": 0.5}
    about = TrainingFacts(genome={EVIL: EVIL}, options=options, metrics=metrics, rows={"test": 9})
    columns = {"numeric": [EVIL], "categorical": {EVIL: [EVIL]}}
    shape = dict.fromkeys(("context", "horizon", "image_height", "image_width", "length", "unit"), EVIL)
    config = {"class": kind, "labels": [EVIL, "b"], "columns": columns, "series": {"time": EVIL}, "model": shape}
    text = card_text(Origin(EVIL, 0, EVIL, EVIL, EVIL, [Result(EVIL, 1.0, None, EVIL)], EVIL), about, config)
    assert "\x1b" not in text
    body = re.sub(r"```.*?```", "", text.split("---\n", 2)[2], flags=re.DOTALL)
    assert not re.search(r"^\|.*(?<!\\)`", body, re.MULTILINE), "a bar ends code in a table"
    outside = re.sub(r"`[^`\n]*`", "", body)
    assert not re.search(r"(?<!\\)<", outside)
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert text.count("\n---\n") == 1, "the front matter ends once"
    assert hub.ModelCard(text).data.pipeline_tag == task_of(config)


def test_an_evaluator_keeps_a_card_of_its_own(tmp_path: Path) -> None:
    origin = Origin("mine", 0, "own")
    (tmp_path / "weights").write_text("")
    write_card(tmp_path, origin, {"loss": 1.0}, {"lr": 0.1})
    text = (tmp_path / CARD_FILE).read_text()
    assert "documentation says how to load" in text
    assert "pipeline_tag" not in text
    (tmp_path / CARD_FILE).write_text("mine")
    write_card(tmp_path, origin, {}, {})
    assert (tmp_path / CARD_FILE).read_text() == "mine"


@pytest.mark.slow
def test_an_exported_trial_is_that_trial_to_the_last_digit(typed: Typed, folder: Path) -> None:
    from tests.training.prediction.cases import table

    data = table(folder)
    words = f"run tabular -o data={data} -o target=kind -o ignore=price -o epochs=1 --no-baseline --name mine"
    done = typed(*words.split(), "--trials", "2", "--final-seeds", "0", "--quiet", "--no-report")
    assert done.code == 0, done
    assert typed("export", "mine", "model", "--trial", "1", "--threads", "1").code == 0
    model, trial = evo_tune.load_model("model"), Run.open(folder / "populations" / "mine").trial(1)
    assert model.about.metrics["val_loss"] == trial.outcome.metrics["val_loss"], "the same training, to the last digit"
    text = (folder / "model" / CARD_FILE).read_text()
    assert "evo-tune export mine model --trial 1 --threads 1" in text
    assert find_evaluator("bundled:tabular").summary[:20] in text.replace("\\", "")
    assert pd.read_csv(data)["kind"].nunique() == len(model.predict_proba(pd.read_csv(data))[0])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a-b, 1.5: c!", "a-b, 1.5: c!"),
        ("-0.5", "-0.5"),
        ("https://x.y", r"https:\//x.y"),
        ("www.x.y", r"www\.x.y"),
        ("1. x", r"1\. x"),
        ("- x", r"\- x"),
        ("[a](b)", r"\[a\](b)"),
    ],
)
def test_only_what_markdown_obeys_is_escaped(text: str, shown: str) -> None:
    assert escape_markdown(text) == shown
