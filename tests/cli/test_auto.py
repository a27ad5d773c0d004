"""`evo-tune auto`: what a data set is taken for, and the model at the end, whatever is killed on the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import evo_tune
from evo_tune.cli.session import PlannedRun
from evo_tune.cli.training import final_training
from evo_tune.cli.training.auto import choose_task, copy_model, recognise_task
from evo_tune.errors import UsageError
from evo_tune.forecast.clock import Clock
from evo_tune.loop.search import Search
from evo_tune.report.data import AutoModel, run_summary
from evo_tune.store.run import Run
from tests.cli.conftest import Typed
from tests.extras import need
from tests.pages import ROOT

TABLE = "width,height,kind\n" + "".join(f"{n % 7},{n * n % 11},{'ab'[n % 7 > 3]}\n" for n in range(80))


def texts(count: int = 40) -> list[dict[str, str]]:
    return [{"body": f"number {n} is a number of the {n % 2} kind", "label": f"k{n % 2}"} for n in range(count)]


@pytest.fixture
def data(folder: Path) -> Path:
    """A folder with data of each kind."""
    (folder / "table.csv").write_text(TABLE)
    (folder / "named.csv").write_text(TABLE.replace("kind", "Target"))
    (folder / "texts.csv").write_text("body,label\n" + "".join(f"{row['body']},{row['label']}\n" for row in texts()))
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts())))
    (folder / "numbers.jsonl").write_text('{"a": 1, "label": 2}\n')
    (folder / "tabs.tsv").write_text("a\tlabel\n1\t2\n")
    (folder / "prose.txt").write_text("a text\n" * 100)
    (folder / "bytes.bin").write_bytes(bytes(range(256)) * 40)
    days = [f"2024-01-{n:02}" for n in range(1, 31)]
    (folder / "series.csv").write_text("day,sold\n" + "".join(f"{day},{n % 7}\n" for n, day in enumerate(days)))
    shops = "".join(f"{day},{shop},{n % 7}\n" for n, day in enumerate(days) for shop in ("Ulm", "Bonn"))
    (folder / "shops.csv").write_text("day,shop,sold\n" + shops)
    rain = "".join(f"{day},{n % 3},{n % 7}\n" for n, day in enumerate(days))
    born = "".join(f"{day},{n % 7},{'ab'[n % 2]}\n" for n, day in enumerate(days))
    (folder / "born.csv").write_text("day,size,kind\n" + born)
    (folder / "rain.csv").write_text("day,rain,sold\n" + rain)
    (folder / "empty.csv").write_text("")
    np.savez(folder / "images.npz", images=np.zeros((9, 4, 4)), labels=np.arange(9) % 3)
    for place in ("photos/cat", "photos/dog", "loose", "corpus/deep", "nothing"):
        (folder / place).mkdir(parents=True)
    for place in ("photos/cat/1.png", "photos/dog/2.jpg", "loose/1.png"):
        (folder / place).write_bytes(b"")
    (folder / "corpus" / "deep" / "one.md").write_text("a text")
    return folder


TAKEN = {
    "table.csv": ("tabular", {"target": "kind"}, "kind"),
    "named.csv": ("tabular", {"target": "Target"}, None),
    "series.csv": ("forecasting", {"time": "day"}, None),
    "shops.csv": ("forecasting", {"time": "day", "key": "shop", "target": "sold"}, "sold"),
    "born.csv": ("tabular", {"target": "kind"}, "kind"),
    "rain.csv": ("tabular", {"target": "sold"}, "sold"),
    "texts.csv": ("text_classification", {"text": "body", "label": "label"}, None),
    "texts.jsonl": ("text_classification", {"text": "body", "label": "label"}, "label"),
    "numbers.jsonl": ("tabular", {"target": "label"}, None),
    "tabs.tsv": ("tabular", {"target": "label"}, None),
    "prose.txt": ("language_model", {}, None),
    "images.npz": ("image_classification", {}, None),
    "photos": ("image_classification", {}, None),
    "corpus": ("language_model", {}, None),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_data_set_is_taken_for_its_task_and_why_is_said(name: str, data: Path) -> None:
    evaluator, options, target = TAKEN[name]
    found = recognise_task(name, target)
    assert found.evaluator == f"bundled:{evaluator}"
    assert found.options == {"data": name, **options}
    assert found.why


def test_covariates_are_proposed_and_used_only_where_they_are_named(data: Path) -> None:
    days = [f"2024-{1 + n // 28:02}-{1 + n % 28:02}" for n in range(84)]
    rows = [f"{day},{n % 7},{n % 5}\n" for n, day in enumerate(days)]
    (data / "sales.csv").write_text("day,sold,price\n" + "".join(rows))
    both = choose_task("sales.csv", None, None, {})
    assert both.options == {"data": "sales.csv", "time": "day"}
    assert "--target sold -o known=price if they are known ahead, otherwise -o past=price" in both.proposal
    pair = choose_task("sales.csv", "sold,price", None, {})
    assert pair.options == {"data": "sales.csv", "time": "day", "target": "sold,price"}
    assert pair.why.endswith("and the others are series")
    table = choose_task("sales.csv", "sold", None, {})
    assert table.evaluator == "bundled:tabular"
    assert (
        "-o split_by=day; to forecast a series: -o known=price if known ahead, otherwise -o past=pr" in table.proposal
    )
    named = choose_task("sales.csv", "sold", None, {"known": "price"})
    assert (named.evaluator, named.why) == ("bundled:forecasting", "covariates of a series are named")
    assert named.options == {"data": "sales.csv", "target": "sold", "known": "price"}


@pytest.mark.parametrize(
    ("name", "target", "told"),
    [
        ("no/such", None, "neither a file nor a folder"),
        ("nothing", None, "is an empty folder"),
        ("loose", None, "one subfolder for each class"),
        ("photos/cat/1.png", None, "is one image"),
        ("corpus", "kind", "--target kind: corpus is not a table"),
        ("bytes.bin", None, "looks like .*, not like UTF-8 text.* as they are"),
        ("prose.txt", "kind", "is not a table"),
        ("table.csv", "price", "no such column"),
        ("empty.csv", None, "cannot read it as a table"),
    ],
)
def test_data_without_a_task_is_refused(name: str, target: str | None, told: str, data: Path) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        recognise_task(name, target)
    assert "\n" not in str(caught.value)


def test_looking_at_data_does_not_load_torch(data: Path) -> None:
    code = "import sys\nfrom evo_tune.cli.training.auto import copy_model, recognise_task\n"
    names = ["named.csv", "series.csv", "texts.jsonl", "photos", "corpus", "images.npz"]
    code += f"for name in {names}:\n    recognise_task(name, None)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=data, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_what_the_data_leaves_open_is_asked_on_a_terminal_and_an_error_elsewhere(
    data: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="which one is to be predicted"):
        recognise_task("table.csv", None)
    done = typed("auto", "table.csv")
    assert done.code == 2
    assert "which one is to be predicted? give --target NAME: one of width, height, kind" in done.err
    assert not (data / "populations").exists()
    answers = []

    def prompt(text: str, **given: object) -> str:
        answers.append(text)
        return "kind"

    monkeypatch.setattr("click.prompt", prompt)
    monkeypatch.setattr("evo_tune.cli.shared.ask_function", lambda: lambda question: True)
    from evo_tune.cli.training.auto import choose_task

    assert choose_task("table.csv", None, None, {}).options["target"] == "kind"
    assert answers


AUTO = ["auto", "table.csv", "--target", "kind", "-o", "epochs=1", "--trials", "2", "--slots", "1", "--name", "mine"]


def weights(folder: Path) -> list[str]:
    files = sorted(folder.rglob("model.safetensors"))
    assert files
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_a_dry_run_says_the_task_the_columns_and_the_time_and_leaves_no_file(data: Path, typed: Typed) -> None:
    before = set(data.rglob("*"))
    words = ("auto", "table.csv", "--target", "kind", "-o", "epochs=1", "--hours", "0.1", "--slots", "1", "--dry-run")
    done = typed(*words)
    assert done.code == 0, done
    assert "table.csv is taken for tabular: it is a table, and 'kind' its target" in done.err
    assert "width" in done.err, "each column is described"
    assert "plan: tabular on 1 x cpu; no run is started, and nothing is written" in done.out
    assert "the training of the model at the end is part of the 0.1 hours" in done.out
    planned = msgspec.json.decode(typed(*words, "--format", "json").out, type=PlannedRun)
    assert planned.options["target"] == "kind"
    assert set(data.rglob("*")) == before


@pytest.mark.slow
def test_killed_on_the_way_it_ends_with_the_same_model(
    data: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = typed(*AUTO, "--out", "whole", "--store", "other")
    assert whole.code == 0, whole
    assert "table.csv is taken for tabular" in whole.err
    assert re.search(r"this takes (\d+ trials, however long|at most \S+ hours, model)", whole.err)
    words = (
        "use whole: ",
        "over fresh seeds",
        "the default",
        "gradient boosting",
        "measured on the test set of table.csv",
    )
    assert [word for word in words if word not in whole.out] == []
    assert "README.md" in {path.name for path in (data / "whole").iterdir()}
    write, killed = final_training.Training.write, []

    def kill(*given: object, **more: object) -> None:
        killed.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(final_training.Training, "write", kill)
    for words in (AUTO, ["resume", "mine"], [*AUTO, "--out", "model"]):
        assert typed(*words).code == 130
        assert not (data / "populations" / "mine" / "_model").exists()
    assert len(killed) == 3
    monkeypatch.setattr(final_training.Training, "write", write)
    assert typed("resume", "mine").code == 0
    again = typed(*AUTO, "--out", "model")
    assert again.code == 0, again
    assert weights(data / "model") == weights(data / "whole") == weights(data / "populations" / "mine" / "_model")
    for words in (["show", "mine"], ["verify", "mine"], ["report", "mine"], ["resume", "mine", "--as", "copy"]):
        assert typed(*words).code == 0, words
    model = evo_tune.load_model("model")
    assert model.about.metrics["test_loss"] > 0.0
    other = typed("auto", "named.csv", *AUTO[4:])
    assert "there is another run of this name" in other.err


@pytest.mark.slow
def test_a_language_model_is_trained_for_the_rest_of_the_hours(
    data: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_training, "STARTING_SECONDS", 0.0)
    monkeypatch.setattr(Clock, "own_seconds", lambda *_: 0.2)  # a busy machine makes the trial slow
    monkeypatch.setattr(final_training, "WRITING_SHARE", -100.0)  # and the hours would end the first attempt early
    (data / "prose.txt").write_text("".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(20000)))
    words = "auto prose.txt -o seconds=0.2 -o size=tiny --trials 1 --slots 1 --name mine"
    assert typed(*words.split()).code == 0
    run = data / "populations" / "mine"
    (run / "_model").rename(data / "small")
    (run / "_auto.json").write_text("{}")
    hours = (Run.open(run).seconds + 8.0) / 3600.0
    done = typed("resume", "mine", "--trials", "1", "--hours", f"{hours:.6f}")
    assert done.code == 0, done
    assert "the final training has" in done.out, done
    assert json.loads((run / "_auto.json").read_text())["seconds"] > 0.2
    about = evo_tune.load_model(run / "_model").about
    first = weights(run / "_model")
    (run / "_model").rename(data / "kept")
    assert typed("resume", "mine").code == 0
    assert weights(run / "_model") == first, "the budget was chosen once"
    again = typed(*words.split()).out
    saved = Run.open(run)
    assert saved.baseline is not None
    better = (about.metrics["test_loss"] or 9.9) < saved.baseline[1].metrics["test_loss"]
    use = "use " if better else "use an n-gram model rather than "
    assert re.search(
        rf"{use}populations/mine/_model( \(no command saves an n-gram model: .*\))?: trial 0 of run mine, trained for",
        again,
    )
    assert "the model on the test set, in brackets an n-gram model: test_loss" in again


@pytest.mark.slow
def test_a_model_worse_than_the_baseline_is_not_recommended_whatever_other_seeds_gave(
    folder: Path, typed: Typed
) -> None:
    rng = random.Random(1)  # labels without a pattern: boosting learns them by heart, and loses
    rows = "".join(f"{rng.random()},{rng.random()},{rng.choice('ab')}\n" for _ in range(300))
    (folder / "noise.csv").write_text("width,height,kind\n" + rows)
    words = "auto noise.csv --target kind -o epochs=1 --trials 3 --slots 1 --name mine"
    first = typed(*words.split())
    use = r"\nuse populations/mine/_model: (trial \d of run mine, test_loss|an ensemble of)"
    assert re.search(use, first.out), first
    config = folder / "populations" / "mine" / "_model" / "config.json"
    about = json.loads(config.read_text())
    about["metrics"]["test_loss"] = 99.0
    config.write_text(json.dumps(about))
    again = typed(*words.split())
    assert (
        "\nuse gradient boosting rather than populations/mine/_model (no command saves gradient boosting: " in again.out
    ), again


@pytest.mark.slow
def test_scores_from_before_the_last_fit_are_said_to_be(data: Path, typed: Typed) -> None:
    words = "auto table.csv --target kind -o epochs=1 -o refit=all --families linear --trials 2 --slots 1 --name mine"
    done = typed(*words.split())
    before = "the model on the test set, before its last fit, which had the test set too, in brackets"
    assert before in done.out, done
    hint = "it has not learned the test set; -o refit=all fits it to these rows too"
    assert hint not in done.out
    assert hint in typed(*words.replace("-o refit=all ", "").replace("mine", "other").split()).out
    card = (data / "populations" / "mine" / "_model" / "README.md").read_text()
    assert "The results are those of the model before its last fit, which had the test samples too" in card


@pytest.mark.slow
def test_a_strangers_wish_writes_nothing_outside_of_the_run(data: Path, typed: Typed) -> None:
    assert typed(*AUTO).code == 0
    run, outside = data / "populations" / "mine", data / "outside"
    outside.mkdir()
    (run / "_model").rename(data / "kept")
    (run / "_model").symlink_to(outside)
    done = typed("resume", "mine")
    assert (done.code, "it is a link" in done.err) == (1, True), done
    (run / "_model").unlink()
    (run / "_model.part").symlink_to(outside)
    (run / "_auto.json").write_text('{"seconds": null, "threads": null}')
    assert typed("resume", "mine").code == 0
    assert not list(outside.iterdir())
    assert weights(run / "_model") == weights(data / "kept")
    (run / "_model").rename(data / "more")
    for text in ("[" * 100000, '{"seconds": 1.0, "options": {"data": "/etc"}}'):
        (run / "_auto.json").write_text(text)
        assert typed("resume", "mine").code == 0
        assert not (run / "_model").exists()


LATE = ("table.csv", "texts.jsonl", "series.csv", "shapes.npz", "long.txt")


def write_enough_data(data: Path) -> None:
    """Write data of which each part of a split has enough."""
    days = np.arange("2020-01-01", "2020-07-01", dtype="datetime64[D]")
    (data / "series.csv").write_text(
        "day,sold\n" + "".join(f"{day},{n % 7 + n * n % 5}\n" for n, day in enumerate(days))
    )
    np.savez(data / "shapes.npz", images=np.arange(60 * 64).reshape(60, 8, 8) % 255, labels=np.arange(60) % 2)
    (data / "long.txt").write_text("".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(9000)))


@pytest.mark.parametrize("name", [LATE[0], *(pytest.param(name, marks=pytest.mark.extended) for name in LATE[1:])])
def test_hours_too_short_for_any_trial_end_with_a_model(name: str, data: Path, typed: Typed) -> None:
    write_enough_data(data)
    target = {"table.csv": ["--target", "kind"], "texts.jsonl": ["--target", "label"]}.get(name, [])
    done = typed("auto", name, *target, "--hours", "0.0005", "--slots", "1", "--name", "mine", "--out", "model")
    assert done.code == 0, done
    assert "use model: the default genome, in run mine" in done.out or "rather than model" in done.out, done
    assert evo_tune.load_model("model").about.metrics["test_loss"] > 0.0  # type: ignore[operator]
    assert Run.open(data / "populations" / "mine").seconds < 60.0


BUSY = "while True:\n    sum(range(100000))"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table.csv", pytest.param("series.csv", marks=pytest.mark.proof)])
def test_on_a_busy_machine_it_ends_in_time_with_a_model(name: str, data: Path) -> None:
    write_enough_data(data)
    target = ["--target", "kind"] if name == "table.csv" else []
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(4)]
    try:
        words = ["auto", name, *target, "--hours", "0.02", "--name", "mine", "--out", "model"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "evo_tune", *words], cwd=data, env=env, capture_output=True, text=True, check=False
        )
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert done.returncode == 0, done
    seconds = Run.open(data / "populations" / "mine").seconds
    assert seconds < 0.02 * 3600.0, "the search leaves time for the model"
    assert evo_tune.load_model(data / "model").about.metrics["test_loss"] is not None


def test_an_earlier_model_is_continued_or_replaced_on_demand(data: Path, typed: Typed) -> None:
    words = [*AUTO, "--out", "model"]
    assert typed(*words).code == 0
    first = weights(data / "model")
    again = typed(*words)
    assert (again.code, weights(data / "model")) == (0, first), again
    assert "model: trial" in again.out
    other = [*AUTO[:-1], "other", "--out", "model", "--families", "transformer"]
    refused = typed(*other)
    assert refused.code == 2
    assert "--out model has a model already: choose another folder, or replace it by --overwrite" in refused.err
    assert not (data / "populations" / "other").exists(), "nothing was started"
    assert typed(*other, "--overwrite").code == 0
    assert weights(data / "model") != first
    (data / "model" / "config.json").unlink()
    for place in ("model", "table.csv"):
        refused = typed(*AUTO[:-1], "third", "--out", place, "--overwrite")
        assert "is neither an empty folder nor a model: choose another" in refused.err, "nothing else is replaced"


def test_a_run_that_others_may_have_written_is_continued_with_trust(
    data: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert typed(*AUTO).code == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(data / "another machine"))
    refused = typed(*AUTO)
    assert refused.code == 2
    assert "was not begun by you here" in refused.err
    assert "give --trust" in refused.err
    assert typed(*AUTO, "--trust").code == 0


def test_a_model_is_replaced_as_a_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new", "old"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(name)

    remove = shutil.rmtree

    def die(path: str | Path, **flags: Any) -> None:
        if Path(path).name in ("old", "link"):
            Path(path, "config.json").unlink()
            raise RuntimeError("killed")
        remove(path, **flags)

    monkeypatch.setattr(shutil, "rmtree", die)
    (folder / "link").symlink_to("old")
    copy_model(folder / "new", folder / "link")
    assert (folder / "link").is_symlink()
    assert (folder / "old" / "config.json").read_text() == "new"


@pytest.mark.slow
def test_a_run_that_was_killed_at_once_is_begun_again(data: Path, typed: Typed) -> None:
    options = {"data": "table.csv", "target": "kind", "families": "auto", "epochs": 1}
    Search("tabular", options=options, trials=2, slots=1, name="mine").close()  # it has no wish for a model yet
    again = typed(*AUTO)
    assert again.code == 0, again
    assert (data / "populations" / "mine" / "_model").is_dir()


def test_the_json_has_each_comparison_of_the_verdict_as_numbers(data: Path, typed: Typed) -> None:
    need("sklearn")  # the baseline
    done = typed(*AUTO, "--format", "json")
    printed = msgspec.json.decode(done.out, type=AutoModel)
    run = Run.open(data / "populations" / "mine")
    assert run.baseline is not None
    by_names = {(row.subject, row.other): row for row in printed.comparisons}
    baseline, metrics = run.baseline[1].metrics, evo_tune.load_model(printed.model).about.metrics
    model = by_names["model", "gradient boosting"]
    assert (model.metric, model.mean, model.other_mean) == (
        "test_loss",
        metrics["test_loss"],
        pytest.approx(baseline["test_loss"]),
    )
    best = by_names["best", "gradient boosting"]
    summary = run_summary(run)
    assert summary.best is not None
    fresh = summary.final_comparison.best
    assert fresh is not None, "the final comparison has fresh seeds"
    assert (best.mean, best.seeds, best.error) == (fresh.mean, len(fresh.values), fresh.error)
    for row in printed.comparisons:
        assert row.family == summary.best.genome.get("family", "tabular")
        assert row.difference == pytest.approx(row.other_mean - row.mean, abs=1e-9), "a loss: smaller is better"


def test_a_table_is_searched_over_all_families_unless_the_user_names_some(data: Path, typed: Typed) -> None:
    need("boosting")
    words = "auto table.csv --target kind -o epochs=1 --trials 2 --dry-run --format json"
    for flags, families in (((), "auto"), (("--families", "boosting"), "boosting")):
        planned = msgspec.json.decode(typed(*words.split(), *flags).out, type=PlannedRun)
        assert planned.options["families"] == families
    refused = typed("auto", "named.csv", "--evaluator", "forecasting", "--families", "linear")
    assert refused.code == 2
    assert "--families linear: forecasting has models of one family: leave it out" in refused.err


def test_a_split_by_time_or_by_group_is_proposed_where_columns_suggest_it(data: Path, typed: Typed) -> None:
    words = ("--target", "kind", "-o", "epochs=1", "--trials", "1", "--slots", "1", "--dry-run")
    by_time = typed("auto", "born.csv", *words)
    assert "'day' has dates: if later rows are to be predicted, give -o split_by=day" in by_time.err, by_time
    assert "split_by" not in typed("auto", "born.csv", *words, "-o", "split_by=day").err
    people = "".join(f"{n % 9},{n * n % 11},{'ab'[n % 2]}\n" for n in range(80))
    (data / "people.csv").write_text("patient_id,size,kind\n" + people)
    by_group = typed("auto", "people.csv", *words).err
    assert (
        "'patient_id' has 9 values in 80 rows: if new ones are to be predicted, give -o split_by=patient_id" in by_group
    )
    assert "split_by" not in typed("auto", "table.csv", *words).err


def test_the_verdict_names_columns_that_know_the_target(data: Path, typed: Typed) -> None:
    rows = "".join(f"{n * n % 11},{'ab'[n * n % 5 > 1]},{'yn'[n * n % 5 > 1]}\n" for n in range(300))
    (data / "told.csv").write_text("size,kind,copy\n" + rows)
    done = typed("auto", "told.csv", *AUTO[2:])
    assert "\nWarning: the target can be read off 'copy' alone: if it is not known beforehand, " in done.out, done
    assert "tabular: Warning: the target can be read off 'copy' alone" in done.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b,label\n1,2,x\n3,4,5,y\n", "line 3 has 4 cells, expected 3: correct that line"),
        ("a,a,label\n1,2,x\n", "two columns are named 'a': rename one"),
        ("a,b,label\n1,2,x\n3,\0004,y\n", "line 3 has a NUL byte"),
    ],
)
def test_the_error_of_a_damaged_table_names_the_damage_alone(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.csv").write_text(text)
    with pytest.raises(UsageError, match=re.escape(problem)) as caught:
        recognise_task(str(tmp_path / "damaged.csv"), "label")
    assert "UTF-8" not in str(caught.value)
    assert "Parquet" not in str(caught.value)


def test_a_first_line_of_data_is_suspected_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bare.csv").write_text("0.5,red,no\n0.25,blue,yes\n" * 5)
    recognise_task(str(tmp_path / "bare.csv"), "no")
    told = capsys.readouterr().err
    assert "looks like data, not like names of columns (0.5, red, no)" in told
    assert "give -o header=none" in told
    assert recognise_task(str(tmp_path / "bare.csv"), "column3", header=False).options["target"] == "column3"
    assert not capsys.readouterr().err
    (tmp_path / "named.csv").write_text("a,b,kind\n" + "0.5,-1.25,no\n0.25,3e-5,yes\n" * 5)
    recognise_task(str(tmp_path / "named.csv"), "kind")
    assert not capsys.readouterr().err


def test_a_folder_of_tables_is_no_corpus(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv.gz"):
        (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="a folder with 2 tables, expected one file: give one of them"):
        recognise_task(str(tmp_path), None)


def test_texts_in_a_subfolder_of_each_class_are_noticed(tmp_path: Path) -> None:
    for name in ("good/1.txt", "good/2.txt", "bad/1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a text\n")
    why = recognise_task(str(tmp_path), None).why
    assert why.startswith(
        "it is a folder of 3 files that are not images; if its 2 subfolders are classes of texts, give"
    )
    (tmp_path / "loose.txt").write_text("a text\n")
    assert recognise_task(str(tmp_path), None).why == "it is a folder of 4 files that are not images"
