"""The examples and the code in the documentation: all of it runs as it stands there."""

import ast
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from evo_tune import Context, Outcome, Search
from evo_tune.errors import UsageError
from evo_tune.genome.trial import check_metrics
from evo_tune.loop.verifying import verify
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator, load_evaluator
from evo_tune.plugins.patches.project import prepare_code
from tests.public import script

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLES = DOCS / "examples"
NAMES = ["command", "pytorch_loop", "sklearn_forest"]
LINKED = [
    "careful",
    "heads",
    "resumable",
    "ridge",
    "ridge_options",
    "tested",
]  # by docs/evaluators.md, for one thing each


def blocks(page: str, language: str = "python") -> dict[str, str]:
    """Return the code blocks of a page, by what their first line says in a comment."""
    found = re.findall(rf"^```{language}\n(?:#|--) (.+?)\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    return dict(found)


def example(name: str) -> Evaluator:
    return find_evaluator(str(EXAMPLES / f"{name}.py"))


def documented(title: str, folder: Path, page: str = "evaluators.md") -> Path:
    """Write a page's block, or the example that the page links to, to the file that it names."""
    path = folder / title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(blocks(page).get(title) or (EXAMPLES / path.name).read_text())
    return path


def evaluate_once(evaluator: Evaluator, folder: Path, seed: int = 1, **options: object) -> dict[str, float]:
    bound = evaluator.bind(options)
    context = Context(seed=seed, folder=folder)
    returned = bound.evaluate(bound.space.default(), context)
    status, metrics, error = check_metrics(returned, evaluator.objectives)
    assert (status, error) == ("ok", None)
    return metrics


# The three examples.


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_shorter_than_30_lines_and_imports_nothing_heavy(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 30
    top = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert modules <= {"evo_tune", *sys.stdlib_module_names}


def test_every_example_is_tested() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py") if "OBJECTIVES" in path.read_text()) == sorted(
        NAMES + LINKED
    )


@pytest.mark.parametrize(
    ("name", "options"), [("command", {"steps": 20}), ("pytorch_loop", {"steps": 60}), ("sklearn_forest", {"trees": 5})]
)
def test_an_example_evaluates(name: str, options: dict[str, int], tmp_path: Path) -> None:
    evaluator = example(name)
    assert evaluator.summary.endswith(".")
    metrics = evaluate_once(evaluator, tmp_path / "trial", **options)
    assert metrics == evaluate_once(evaluator, tmp_path / "trial", **options)
    assert not (tmp_path / "trial").exists()  # none of them uses its folder


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_and_beats_or_equals_its_default(name: str, tmp_path: Path) -> None:
    search = Search(str(EXAMPLES / f"{name}.py"), trials=3, slots=1, store=tmp_path).run()
    assert [trial.outcome.error for trial in search.trials] == [None] * 3
    assert search.best is not None
    assert search.best.losses <= search.trials[0].losses


def test_the_pytorch_example_repeats_for_a_seed_and_reports_its_curve(tmp_path: Path) -> None:
    evaluator = example("pytorch_loop")
    options = evaluator.bind({"steps": 100})
    contexts = [Context(seed=seed, folder=tmp_path) for seed in (1, 1, 2)]
    genome = options.space.default()
    first, again, other = (options.evaluate(genome, context) for context in contexts)
    assert first == again != other
    assert contexts[0].curve == contexts[1].curve
    assert [fraction for fraction, _ in contexts[0].curve] == [0.5, 1.0]
    assert contexts[0].curve[-1][1] == first


def test_the_pytorch_example_stops_at_its_budget(tmp_path: Path) -> None:
    evaluator = example("pytorch_loop")
    options = evaluator.bind({"steps": 50})
    context = Context(budget=0.3, folder=tmp_path)
    options.evaluate(options.space.default(), context)
    assert [fraction for fraction, _ in context.curve] == [0.3]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("print('step 1')\nprint(0.25)", {"val_loss": 0.25}),
        ('print(\'{"val_loss": 0.5, "steps": 7}\')', {"val_loss": 0.5, "steps": 7}),
    ],
)
def test_the_command_may_print_a_number_or_json(
    script: str, expected: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = with_script(script, tmp_path, monkeypatch)
    assert evaluate_once(evaluator, tmp_path / "trial") == expected


def test_a_command_that_fails_gives_its_exit_code_and_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys\nprint('first', file=sys.stderr)\nprint('no such corpus', file=sys.stderr)\nsys.exit(3)"
    evaluator = with_script(script, tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match=r"^exit code 3: no such corpus$"):
        evaluate_once(evaluator, tmp_path / "trial")


def test_the_command_tells_when_its_script_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = with_script("print(1.0)", tmp_path, monkeypatch).bind({}).fingerprint()
    assert with_script("print(2.0)", tmp_path, monkeypatch).bind({}).fingerprint() != before


def with_script(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    path = folder / "script.py"
    path.write_text(script)
    evaluator = example("command")
    monkeypatch.setattr(evaluator.module, "SCRIPT", path)
    return evaluator


# docs/evaluators.md


@pytest.mark.parametrize("title", [*blocks("evaluators.md"), *(f"evaluators/{name}.py" for name in LINKED)])
def test_a_documented_evaluator_evaluates(title: str, tmp_path: Path) -> None:
    options: dict[str, object] = {}
    if title.endswith("ridge.py"):
        rows = np.random.default_rng(0).normal(size=(40, 4))
        np.savetxt(tmp_path / "data.csv", rows, delimiter=",")
        options = {"data": str(tmp_path / "data.csv")}
    evaluator = load_evaluator(documented(title, tmp_path), title, "file")
    bound = evaluator.bind(options)
    metrics = evaluate_once(evaluator, tmp_path / "trial", **options)
    space = bound.space
    assert metrics.items() >= bound.estimate(space.default()).items()
    rng = np.random.default_rng(0)
    for genome in (space.sample(rng) for _ in range(50)):
        assert space.check(genome) == genome  # what repair returned once, it leaves alone


def test_the_documented_space_follows_its_option(tmp_path: Path) -> None:
    evaluator = load_evaluator(documented("evaluators/ridge.py", tmp_path), "ridge", "file")
    spaces = [evaluator.bind({"data": "x", "size": size}).space for size in ("small", "large")]
    assert [space.genes["degree"].size for space in spaces] == [3, 9]


def test_the_documented_training_goes_on_from_a_part(tmp_path: Path) -> None:
    evaluator = load_evaluator(documented("evaluators/resumable.py", tmp_path), "resumable", "file")
    options = evaluator.bind({})
    genome = options.space.default()
    whole = Context(folder=tmp_path / "whole")
    part = Context(folder=tmp_path / "part", budget=0.25)
    rest = Context(folder=tmp_path / "rest", resume_folder=tmp_path / "part")
    metrics = options.evaluate(genome, whole)
    assert options.evaluate(genome, part) != metrics
    assert options.evaluate(genome, rest) == metrics
    assert rest.curve[-1] == whole.curve[-1]
    lost = Context(folder=tmp_path / "again", resume_folder=tmp_path / "whole" / "nothing")
    assert options.evaluate(genome, lost) == metrics


def test_the_documented_test_set_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    evaluator = load_evaluator(documented("evaluators/tested.py", tmp_path), "tested", "file")
    asked = evaluator.bind({}).evaluate({"k": 5}, Context(test=True))
    assert evaluator.bind({}).evaluate({"k": 5}, Context()).keys() == {"val_error"}
    assert asked.keys() == {"val_error", *evaluator.tests.values()}


def test_the_documented_exception_carries_its_status(tmp_path: Path) -> None:
    evaluator = load_evaluator(documented("evaluators/careful.py", tmp_path), "careful", "file")
    with pytest.raises(RuntimeError, match="at step") as raised:
        evaluator.bind({}).evaluate({"lr": 10.0}, Context(folder=tmp_path))
    assert raised.value.status == "diverged"  # type: ignore[attr-defined]


# docs/strategies.md


def by_hand(search: Search) -> Search:
    """Run a search in this process."""
    while (candidate := search.ask()) is not None:
        context = Context(seed=candidate.seed, folder=search.saved.folder / "_trials" / f"{candidate.id:06d}")
        metrics = search.evaluator.evaluate(candidate.genome, context)
        search.tell(candidate, Outcome("ok", metrics, tuple(context.curve), device="cpu"))
    search.close()
    return search


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the documented strategy and an evaluator for it."""
    monkeypatch.chdir(tmp_path)
    documented("strategies/hill_climb.py", tmp_path, "strategies.md")
    documented("evaluators/heads.py", tmp_path)
    return tmp_path


@pytest.mark.parametrize("title", [*blocks("strategies.md"), "strategies/log_ei.py"])
def test_a_documented_strategy_improves_and_is_replayed(title: str, in_folder: Path) -> None:
    documented(title, in_folder, "strategies.md")
    if title == "strategies/log_ei.py":
        pytest.importorskip("botorch", reason="BoTorch is not installed: pip install botorch")
    trials, options = {"strategies/log_ei.py": (12, {})}.get(title, (40, {"scale": "0.2"}))
    search = by_hand(Search("heads", strategy=title, trials=trials, slots=1, strategy_options=options))
    assert search.best is not None
    assert search.best.losses < search.trials[0].losses
    assert verify(search.saved, search.space, search.strategy) == []


def test_the_documented_botorch_strategy_has_30_lines() -> None:
    lines = (EXAMPLES / "log_ei.py").read_text().partition("@dataclass")[2].splitlines()
    assert len([line for line in lines if line.strip()]) <= 30


def test_the_documented_strategy_gives_each_genome_once_until_none_is_left(in_folder: Path) -> None:
    narrow = (in_folder / "evaluators" / "heads.py").read_text().replace("Int(32, 256", "Int(32, 64")
    (in_folder / "evaluators" / "narrow.py").write_text(narrow.replace("Int(1, 8", "Int(1, 2"))
    search = by_hand(Search("narrow", strategy="strategies/hill_climb.py", trials=1000, slots=1))
    genomes = [tuple(trial.genome.items()) for trial in search.trials]
    assert len(set(genomes)) == len(genomes) == 16  # of 24: width 32 and 64 have no 3 and no 6 heads
    assert search.finished == "the strategy has nothing more to propose"


# docs/files.md


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved run of two generations, populations/RUN."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        documented("evaluators/resumable.py", folder)
        text = (folder / "evaluators" / "resumable.py").read_text()
        (folder / "evaluators" / "resumable.py").write_text(
            text.replace('"loss"', '"val_loss"').replace(" loss=", " val_loss=")
        )
        by_hand(Search("resumable", population=4, trials=8, slots=1, name="RUN"))
    return folder


def test_the_documented_files_are_there_and_no_others(store: Path) -> None:
    page = (DOCS / "files.md").read_text()
    for path in (store / "populations" / "RUN").iterdir():
        assert path.name in page


def test_the_documented_columns_are_those_of_a_run(store: Path) -> None:
    import pandas

    rows = re.findall(r"^\| `([a-z_]+|gene\.NAME|metric\.NAME)` \|", filled("files.md"), re.M)
    columns = pandas.read_parquet(store / "populations" / "RUN").columns
    named = [re.sub(r"^(gene|metric)\..*", r"\1.NAME", name) for name in columns]
    assert list(dict.fromkeys(named)) == rows[: rows.index("survivor") + 1]


def test_the_documented_manifest_and_events_are_those_of_a_run(store: Path) -> None:
    page = filled("files.md")
    run = store / "populations" / "RUN"
    assert all(f"`{field}`" in page for field in json.loads((run / "_run.json").read_text()))
    events = [json.loads(line) for line in (run / "_journal.jsonl").read_text().splitlines()]
    assert all(f"| `{event['event']}` |" in page for event in events)


@pytest.mark.parametrize("title", blocks("files.md"))
def test_documented_python_reads_a_run(
    title: str, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store)
    exec(compile(blocks("files.md")[title], title, "exec"), {})
    assert "val_loss" in capsys.readouterr().out


@pytest.mark.parametrize("title", blocks("files.md", "sql"))
def test_documented_sql_reads_a_run(title: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    monkeypatch.chdir(store)
    rows = duckdb.sql(blocks("files.md", "sql")[title]).fetchall()
    assert rows
    assert all(value is not None for row in rows for value in row)


# All pages.

ROOT = DOCS.parent
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "populations/README.md"])


def filled(page: str) -> str:
    """Return a page of docs/ with its generated parts, as `make docs` shows it."""
    return str(script("docs/generated.py").filled((DOCS / page).read_text(encoding="utf-8")))


def test_generated_parts_are_all_there_and_their_links_lead_to_a_title() -> None:
    pages = script("docs/generated.py").pages()
    assert pages == ["files.md", "json.md", "settings.md", "training.md"]
    for page in pages:
        text = filled(page)
        assert "<!-- generated" not in text
        titles = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
        }
        links = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text)
        assert all((DOCS / file).exists() for file, _ in links), page
        assert {anchor for file, anchor in links if anchor and not file} <= titles, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith(("https://arxiv.org/", "https://github.com/")) or (page.parent / link).exists(), link


def test_options_as_a_dataclass_are_checked_and_become_genes(tmp_path: Path) -> None:
    path = documented("evaluators/ridge_options.py", tmp_path)
    evaluator = load_evaluator(path, str(path), "file")
    assert evaluate_once(evaluator, tmp_path, degree=9)["val_error"] < evaluate_once(evaluator, tmp_path)["val_error"]
    bound = evaluator.bind({})
    genome = bound.space.including(["degree"]).check({"degree": 9}, fill_defaults=True)
    assert bound.evaluate(genome, Context()) == evaluate_once(evaluator, tmp_path, degree=9)
    assert set(bound.space.optional) == {"degree"}
    with pytest.raises(UsageError, match="-o points=1: expected a whole number, 10 to 100000"):
        evaluator.bind({"points": "1"})


def test_the_patches_of_the_example_apply_and_are_those_of_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / "patches")
    code = prepare_code(Path("patches"), [], False, Path("populations"), "python train.py --lr {lr}", ["lr"])
    names = {patch.name for patch in code.patches.patches}
    assert len(names) >= 16
    assert (
        names
        == set(re.findall(r"`([a-z0-9-]+)`", (DOCS / "patches.md").read_text().split("## What a patch")[0])) & names
    )
    assert code.patches.conflicts() == [("relu2", "swish")]
    for patch in code.patches.patches:
        lines = code.patches.apply([patch.name])["train.py"]
        assert lines is not None
        ast.parse(patch.fill("".join(lines), {name: gene.middle() for name, gene in patch.genes.items()}))
    together = names - {"swish", "fused-loss"}
    assert code.patches.apply(together)
