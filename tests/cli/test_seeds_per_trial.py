"""`--seeds-per-trial auto`, as it is typed, told, shown and refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evo_tune.cli.session import print_summary
from evo_tune.loop.search import Search
from tests.cli.conftest import Typed

NOISY = '''"""A bowl with noise."""
import numpy as np

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "", "size": ""}
SUPPORTS = ["budget"]


def evaluate(genome, context):
    units = [genome["x"], genome["y"]]
    noise = np.random.default_rng([context.seed, *(int(1e9 * unit) for unit in units)]).normal()
    return {"loss": sum((unit - 0.3) ** 2 for unit in units) + 0.2 * noise, "size": 1.0}
'''

RUN = ["run", "noisy.py", "--slots", "1", "--trials", "30", "--final-seeds", "0", "--no-report"]


@pytest.fixture
def noisy(folder: Path) -> None:
    (folder / "noisy.py").write_text(NOISY)


@pytest.mark.slow
@pytest.mark.usefixtures("noisy")
def test_a_run_says_what_it_is_recommending_by_and_replays(typed: Typed) -> None:
    shown, name, data = "", "", {}
    for seed in range(10):  # what is expected to be the best is what was seen to be, in some of them
        name = f"auto-{seed}"
        made = typed(*RUN, "--strategy", "random", "--seed", str(seed), "--seeds-per-trial", "auto", "--name", name)
        assert made.code == 0, made
        shown = " ".join(typed("show", name).out.split())
        data = json.loads(typed("show", name, "--format", "json").out)
        if "; the recommended one is first)" in shown and data["results"] > 30:
            break
    assert "; the recommended one is first)" in shown
    assert data["results"] > 30
    assert (data["settings"]["seeds_per_trial"], data["settings"]["seeds"]) == ("auto", "own")
    assert typed("verify", name).code == 0
    told = re.search(r"predicted loss with other seeds: (\S+)", made.out)
    assert told
    assert f"({told[1]} is predicted over other seeds)" in typed("best", name).out
    assert float(told[1]) > data["best"][0]["metrics"]["loss"], "what was seen is luck, in part"
    plain = typed(*RUN, "--name", "plain")
    assert plain.code == 0
    assert "expected" not in plain.out + typed("best", "plain").out
    data = json.loads(typed("show", "plain", "--format", "json").out)
    assert (data["settings"]["seeds_per_trial"], data["results"]) == (1, 30)


@pytest.mark.usefixtures("noisy")
@pytest.mark.parametrize(
    ("newcomer", "first", "told"),
    [(0.5, 1.1, "where there are several; the recommended one is first)"), (1.2, 1.1, "are several)")],
)
def test_show_says_that_the_first_is_not_the_one_that_looks_best(
    typed: Typed, newcomer: float, first: float, told: str
) -> None:
    losses = {0: [1.0, 1.3, newcomer], 1: [1.2]}
    with Search("noisy.py", strategy="random", seeds_per_trial=2, trials=9, name="byhand") as search:
        while (candidate := search.ask()) is not None and losses[candidate.extra_seed]:
            search.tell(candidate, {"loss": losses[candidate.extra_seed].pop(0), "size": 1.0})
            if not losses[0]:
                break
    shown = " ".join(typed("show", "byhand").out.split())
    assert told in shown
    best = json.loads(typed("show", "byhand", "--format", "json").out)["best"]
    assert best[0]["metrics"]["loss"] == first


@pytest.mark.usefixtures("noisy")
def test_the_end_of_a_run_says_of_how_many_seeds_each_value_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Search("noisy.py", strategy="random", seeds_per_trial=2, trials=2, name="byhand") as search:
        for candidate, loss in zip((search.ask(), search.ask()), (1.0, 0.7), strict=True):
            search.tell(candidate, {"loss": loss, "size": 1.0})
        search.tell(search.ask(), {"loss": 0.9, "size": 1.0})
        print_summary(search.saved)
    out = capsys.readouterr().out
    assert "0.8 (n=2)" in out
    assert "1 (n=1)" in out
    assert "difference: 0.20000 (best: the mean of 2 seeds, default: one seed): it may be luck" in out


@pytest.mark.usefixtures("noisy")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--budget", "3"], "auto"),
        (["--budget", "3", "--seeds-per-trial", "1"], 1),
        (["--budget", "3", "--trials", "3"], 1),
        (["--budget", "3", "--objective", "loss:min", "--objective", "size:min", "--finalists", "1"], 1),
        (["--budget", "3", "--strategy", "staged"], 1),
    ],
)
def test_extra_seeds_are_the_default_where_all_trainings_count(typed: Typed, given: list[str], told: object) -> None:
    assert typed("run", "noisy.py", "--final-seeds", "0", *given, "--name", "mine").code == 0
    data = json.loads(typed("show", "mine", "--format", "json").out)
    assert data["settings"]["seeds_per_trial"] == told


def test_a_command_without_a_seed_gets_no_extra_ones(typed: Typed, folder: Path) -> None:
    (folder / "train.py").write_text("import sys\nprint('loss', float(sys.argv[1]))\n")
    for seed, told in (("", 1), (" {seed}", "auto")):
        given = ("--gene", "x=float(0,1)", "--objective", "loss:min", "--budget", "1", "--final-seeds", "0")
        assert typed("run", "python train.py {x}" + seed, *given, "--name", f"run-{told}").code == 0
        data = json.loads(typed("show", f"run-{told}", "--format", "json").out)
        assert data["settings"]["seeds_per_trial"] == told


@pytest.mark.slow
@pytest.mark.usefixtures("noisy")
def test_seeds_of_their_own_are_typed_shown_and_refused(typed: Typed) -> None:
    assert typed(*RUN, "--seeds", "own", "--name", "own").code == 0
    assert json.loads(typed("show", "own", "--format", "json").out)["settings"]["seeds"] == "own"
    assert typed("verify", "own").code == 0
    assert typed(*RUN, "--name", "plain").code == 0
    assert typed(*RUN, "--seeds-per-trial", "auto", "--seeds", "shared", "--name", "both").code == 0
    settings = json.loads(typed("show", "both", "--format", "json").out)["settings"]
    assert (settings["seeds_per_trial"], settings["seeds"]) == ("auto", "shared")
    assert json.loads(typed("show", "plain", "--format", "json").out)["settings"]["seeds"] == "shared"
    made = typed(*RUN, "--seeds", "mine")
    assert made.code == 2
    assert "'mine' is not one of 'own', 'shared'" in made.err


@pytest.mark.usefixtures("noisy")
@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["--seeds-per-trial", "autos"], "'--seeds-per-trial': 'autos'"),
        (["--seeds-per-trial", "0"], "'--seeds-per-trial': 0"),
        (["--seeds-per-trial", "auto", "--objective", "loss:min", "--objective", "size:min"], "expected one objective"),
        (["--seeds-per-trial", "auto", "--strategy", "staged"], "decides itself on budgets and extra seeds"),
    ],
)
def test_what_does_not_go_with_it_is_said_in_a_line(typed: Typed, folder: Path, given: list[str], text: str) -> None:
    made = typed(*RUN, *given)
    assert made.code == 2
    assert text in made.err
    assert len(made.err.splitlines()) == 1
    assert not (folder / "populations").exists()


@pytest.mark.usefixtures("noisy")
def test_a_file_of_flags_may_say_it_as_a_word_or_a_number(typed: Typed, folder: Path) -> None:
    for given, told in (('"auto"', "auto"), ("2", 2)):
        (folder / "flags.toml").write_text(f"seeds-per-trial = {given}\n")
        name = f"run-{told}"
        assert typed("run", "noisy.py", "--config", "flags.toml", "--trials", "2", "--name", name).code == 0
        data = json.loads(typed("show", name, "--format", "json").out)
        assert data["settings"]["seeds_per_trial"] == told
