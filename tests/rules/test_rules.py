"""Rungs, pruning, extra seeds and constraints in real runs: on disk, resumed, replayed, refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evo_tune.errors import OptionError, PluginError, RunError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.code import strategy_with_rules
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import verify
from evo_tune.plugins.context import Context, Pruned
from evo_tune.report.charts.history import best_so_far
from evo_tune.report.recommendation import current_comparison, fresh_values, rank_trials, recommend_trial
from evo_tune.report.summary import pareto_front, total_cost
from evo_tune.store.manifest import space_of
from evo_tune.store.run import Run
from tests.conftest import cut_copy, drive, rows, survivors

DESCENT = '''"""Gradient descent that can stop at a part of the training and go on later."""
import json
import math

from evo_tune import Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(1e-3, 0.3, log=True, default=0.01), size=Int(1, 10, default=4))
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "", "size": "", "square": "", "resumed": ""}
SUPPORTS = ["budget", "curve"]


def estimate(genome):
    return {"size": genome["size"]}


def evaluate(genome, context, *, steps: int = 40):
    done, x = 0, 5.0
    if context.resume_folder and (context.resume_folder / "state.json").exists():
        done, x = json.loads((context.resume_folder / "state.json").read_text())
    start, last = done, math.ceil(context.budget * steps)
    for step in range(done, last):
        x -= genome["lr"] * (1 - step / steps) * 2 * (x - 2.0)
        if (step + 1) % 5 == 0 or step + 1 == last:
            context.report((step + 1) / steps, loss=(x - 2.0) ** 2 + genome["size"] / 10)
    (context.folder / "state.json").write_text(json.dumps([last, x]))
    print("went on from", start)
    noise = context.seed % 1000 / 1e4 * genome["size"]
    return {"loss": (x - 2.0) ** 2 + genome["size"] / 10 + noise, "square": genome["size"] ** 2, "resumed": start}
'''

Begin = Callable[..., Search]
RULES: dict[str, dict[str, Any]] = {
    "rungs": {"fidelity": "1/9,1/3,1"},
    "all": {"fidelity": "1/4,1", "prune": True, "seeds_per_trial": 2, "subject_to": ["size<=6", "square<=30"]},
}


@pytest.fixture
def descent(begin: Begin, tmp_path: Path) -> Begin:
    """Return a function that begins a run of an evaluator that can be resumed."""
    path = tmp_path / "descent.py"
    path.write_text(DESCENT)
    return lambda name=None, **fields: begin(name, **{"evaluator": str(path), **fields})


@pytest.fixture(params=RULES)
def rules(request: pytest.FixtureRequest) -> dict[str, Any]:
    return RULES[request.param]


def train(search: Search, candidate: Candidate) -> Outcome:
    """Return what comes of a candidate, trained right here from scratch: the same as going on, but longer."""
    folder = search.saved.folder.parents[1] / "scratch" / f"{candidate.id:06d}"
    context = Context(
        seed=candidate.seed,
        budget=candidate.budget,
        folder=folder,
        stop_if=candidate.stop_if,
        objectives=search.saved.objectives,
    )
    try:
        metrics = search.evaluator.evaluate(candidate.genome, context)
    except Pruned as pruned:
        return Outcome("pruned", {}, tuple(context.curve), error=str(pruned))
    return Outcome("ok", metrics, tuple(context.curve))


def agree(run: Run, search: Search) -> bool:
    space = space_of(run.manifest, search.evaluator.space)
    return verify(run, space, strategy_with_rules(run.manifest, search.evaluator, run.manifest.strategy)) == []


def test_what_goes_on_from_a_checkpoint_is_what_was_trained_at_once(descent: Begin) -> None:
    search = descent("run", fidelity="1/9,1/3,1", slots=2, generations=3).run()
    run = Run.open(search.saved.folder)
    assert all(outcome.status == "ok" for outcome in run.outcomes.values())
    later = [trial for trial in run.trials() if trial.candidate.resumes is not None]
    assert {trial.candidate.budget for trial in later} == {1 / 3, 1.0}
    for trial in later:
        before = run.candidates[trial.candidate.resumes or 0]
        assert trial.outcome.metrics["resumed"] == -(-40 * before.budget // 1)
        assert trial.outcome.metrics["loss"] == train(search, trial.candidate).metrics["loss"]
        folder = run.folder / "_trials" / f"{before.id:06d}"
        assert sorted(path.name for path in folder.iterdir()) == ["log.txt"]  # nothing goes on from it any more
    waiting = {trial.id for trial in run.trials()} - {trial.candidate.resumes for trial in later}
    assert all((run.folder / "_trials" / f"{id:06d}" / "state.json").exists() for id in waiting)
    assert agree(run, search)


def test_a_checkpoint_that_is_gone_costs_time_only(descent: Begin) -> None:
    search = descent("run", fidelity="1/4,1", slots=1, trials=1)
    first = search.ask()
    assert first is not None
    assert first.budget == 0.25
    search.tell(first, train(search, first))
    search.run()
    assert [trial.outcome.metrics["resumed"] for trial in search.trials] == [0.0, 0.0]
    assert search.trials[1].candidate.resumes == 0
    assert search.trials[1].rankable


@pytest.mark.slow
@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_a_run_killed_anywhere_goes_on_the_same(
    descent: Begin, resume: Begin, tmp_path: Path, rules: dict[str, Any], order: str, fast_disk: None
) -> None:
    whole = drive(descent("whole", order=order, lag=2, **rules), slots=1, evaluate=train)
    assert agree(whole.saved, whole)
    lines = (whole.saved.folder / "_journal.jsonl").read_bytes().splitlines()
    for cut in range(2, len(lines) - 1, 7):
        cut_copy(whole.saved, tmp_path / "store" / f"cut-{cut}", cut)
        again = drive(resume(f"cut-{cut}"), slots=1, evaluate=train)
        assert rows(again) == rows(whole)
        assert survivors(again.saved.folder) == survivors(whole.saved.folder)


def test_in_birth_order_the_number_of_slots_does_not_matter(
    descent: Begin, rules: dict[str, Any], fast_disk: None
) -> None:
    runs = [drive(descent(order="proposal", lag=3, **rules), slots=slots, evaluate=train) for slots in (1, 2, 4)]
    assert rows(runs[0]) == rows(runs[1]) == rows(runs[2])
    assert survivors(runs[0].saved.folder) == survivors(runs[2].saved.folder)
    assert agree(runs[2].saved, runs[2])


def test_a_limit_counts_genomes_and_leaves_no_promotion_out(descent: Begin, resume: Begin, fast_disk: None) -> None:
    run = drive(descent("run", fidelity="1/9,1/3,1", generations=None, trials=9), slots=3, evaluate=train).saved
    assert run.ended == "the limit of 9 trials is reached"
    assert sum(candidate.fresh for candidate in run.candidates) == 9
    assert run.candidates[-1].budget == 1.0
    assert run.leader is not None
    assert run.leader.candidate.budget == 1.0
    assert best_so_far(run)[-1][2] == run.leader.id
    more = drive(resume("run", trials=12), slots=3, evaluate=train).saved
    assert sum(candidate.fresh for candidate in more.candidates) == 12
    assert rows(more)[: len(run.candidates)] == rows(run)


def test_warm_starts_are_born_whatever_else_is_due(descent: Begin, fast_disk: None) -> None:
    warm = [{"lr": 0.02 * number, "size": number} for number in range(1, 6)]
    search = drive(descent(fidelity="1/4,1", warm_start=warm, generations=None, trials=8), evaluate=train)
    born = [candidate for candidate in search.saved.candidates if candidate.operator == "warm-start"]
    assert [candidate.genome["size"] for candidate in born] == [1, 2, 3, 4, 5]
    assert {candidate.budget for candidate in born} == {0.25}
    assert any(candidate.id < born[-1].id and candidate.resumes is not None for candidate in search.saved.candidates)
    assert agree(search.saved, search)


def test_a_budget_in_full_trainings_ends_the_run(descent: Begin, resume: Begin, fast_disk: None) -> None:
    run = drive(descent("run", fidelity="1/9,1/3,1", generations=None, budget=5.0), evaluate=train).saved
    assert run.ended == "the budget of 5 full trainings is spent"
    assert 5.0 - 1e-9 <= total_cost(run) < 5.0 + 2 / 3
    again = drive(resume("run", budget=6.0), evaluate=train).saved
    assert 6.0 - 1e-9 <= total_cost(again) < 6.0 + 2 / 3


def test_a_pruned_training_costs_what_it_had(descent: Begin, fast_disk: None) -> None:
    run = drive(descent(prune=True, generations=8), evaluate=train).saved
    pruned = [outcome for outcome in run.outcomes.values() if outcome.status == "pruned"]
    assert len(pruned) > 3
    assert all(outcome.curve[-1][0] < 0.7 for outcome in pruned)
    assert total_cost(run) == pytest.approx(32 - sum(1 - outcome.curve[-1][0] for outcome in pruned))


def test_best_front_and_final_comparison_keep_to_the_constraints(descent: Begin, resume: Begin, here: None) -> None:
    search = descent(
        "run", subject_to=["square>=36"], slots=2, order="proposal", generations=5, final_seeds=2, finalists=2
    ).run()
    run = Run.open(search.saved.folder)
    assert run.leader is not None
    assert run.leader.genome["size"] == 6
    assert [trial.genome["size"] for trial in pareto_front(run)] == [6]
    assert not run.ranked()[-1].feasible  # the default has size 4
    best = recommend_trial(run)
    assert best is not None
    assert best.feasible
    assert best.id in [row.id for row in fresh_values(run)], "the only finalist that keeps to them needs no choice"


def test_the_incumbent_is_told_by_its_mean(descent: Begin, fast_disk: None) -> None:
    run = drive(descent(seeds_per_trial=3), evaluate=train).saved
    assert run.leader is not None
    seeds = [t for t in run.trials() if t.genome == run.leader.genome]
    assert sorted(trial.candidate.extra_seed for trial in seeds) == [0, 1, 2]
    assert run.leader.losses == (pytest.approx(sum(t.losses[0] for t in seeds if t.losses) / 3),)
    assert len(run.ranked()) == len({json.dumps(trial.genome) for trial in run.trials()}) == 12


def test_partial_results_are_no_best(descent: Begin) -> None:
    search = descent(fidelity="1/4,1")
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, {"loss": 0.0, "size": 1.0})
    assert search.best is None
    assert recommend_trial(search.saved) is None
    assert pareto_front(search.saved) == []


def test_columns_say_what_went_on_from_what(descent: Begin, fast_disk: None) -> None:
    search = drive(descent(fidelity="1/4,1"), evaluate=train)
    frame = pd.read_parquet(search.saved.folder)
    later = frame[frame["resumes"].notna()]
    assert set(later["budget"]) == {1.0}
    assert set(later["operator"]) == {"promotion"}
    assert set(frame[frame["resumes"].isna()]["budget"]) == {0.25}


NOISY = '''"""A bowl whose losses differ from seed to seed by as much as from genome to genome."""
import numpy as np

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    units = [genome["x"], genome["y"]]
    noise = np.random.default_rng([context.seed, *(int(1e9 * unit) for unit in units)]).normal()
    return {"loss": sum((unit - 0.3) ** 2 for unit in units) + 0.2 * noise}
'''


@pytest.fixture
def noisy(begin: Begin, tmp_path: Path) -> Begin:
    """Return a function that begins a run of a noisy evaluator with further seeds by worth."""
    path = tmp_path / "noisy.py"
    path.write_text(NOISY)

    def make(**given: Any) -> Search:
        settings = {"strategy": "saea", "seeds_per_trial": "auto", "trials": 30, "slots": 1, "seed": 3, **given}
        return begin(**{"evaluator": str(path), **settings})

    return make


@pytest.mark.slow
def test_further_seeds_by_worth_resume_and_replay(noisy: Begin, tmp_path: Path) -> None:
    search = noisy(name="whole", seed=2).run()
    whole = rows(search)
    assert sum(row[0].extra_seed > 0 for row in whole) >= 2
    assert agree(search.saved, search)
    for cut in (13, 24):
        copy = cut_copy(search.saved, tmp_path / "store" / f"cut-{cut}", cut)
        again = Search.resume(copy.name, store=tmp_path / "store", slots=1).run()
        assert rows(again) == whole


def test_where_seeds_change_nothing_one_is_tried_at_most(noisy: Begin, tmp_path: Path) -> None:
    path = tmp_path / "certain.py"
    path.write_text(NOISY.replace("0.2 * noise", "0.0 * noise"))
    search = noisy(evaluator=str(path), strategy="random", trials=20).run()
    assert sum(one.extra_seed > 0 for one in search.saved.candidates) <= 1


@pytest.mark.parametrize("seeds_per_trial", ["auto", 1])
def test_what_is_recommended_is_what_is_expected_to_be_best_and_not_what_was_seen_to_be(
    noisy: Begin, seeds_per_trial: int | str
) -> None:
    differs = 0
    for seed in range(5):
        search = noisy(strategy="random", seed=seed, trials=20, seeds_per_trial=seeds_per_trial)
        run = drive(search, evaluate=train).saved
        best = recommend_trial(run)
        assert best is not None
        assert best.id == rank_trials(run)[0].id
        differs += best.id != run.ranked()[0].id
    assert (differs > 0) == (seeds_per_trial == "auto")


def test_the_finalists_are_those_of_which_the_least_loss_is_expected(noisy: Begin) -> None:
    run = noisy(final_seeds=1, finalists=3).run().saved
    expected = [trial.id for trial in rank_trials(run)]
    assert [trial.id for trial in run.ranked()] != expected, "or this shows nothing"
    assert current_comparison(run).finalists == tuple(id for id in expected[:3] if id)


@pytest.fixture
def nothing_written(tmp_path: Path) -> Iterator[None]:
    yield
    assert not (tmp_path / "store").exists()


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"fidelity": "1/3,1/9,1"}, OptionError, "--fidelity 1/3,1/9,1: expected increasing fractions"),
        ({"fidelity": "1/9,1/3"}, OptionError, "expected 1, the full training, as the last one"),
        (
            {"subject_to": ["sise<=3"]},
            OptionError,
            r"no metric 'sise' .did you mean size.*: expected one of loss, size",
        ),
        ({"subject_to": ["size<3"]}, OptionError, "--subject-to 'size<3': expected METRIC<=NUMBER"),
        ({"seeds_per_trial": 0}, OptionError, "--seeds-per-trial 0: expected a whole number, 1 to 1000000, or auto"),
        ({"seeds_per_trial": "some"}, OptionError, "--seeds-per-trial some: expected a whole number or auto"),
        ({"seeds_per_trial": True}, OptionError, "--seeds-per-trial True: expected a whole number or auto"),
        (
            {"seeds_per_trial": "auto", "objectives": ["loss:min", "size:min"]},
            OptionError,
            "--seeds-per-trial: expected one objective, and 2 were given",
        ),
        (
            {"seeds_per_trial": 2, "objectives": ["loss:min", "size:min"]},
            OptionError,
            "--seeds-per-trial: expected one objective",
        ),
        ({"prune": True, "objectives": ["loss:min", "size:min"]}, OptionError, "--prune: expected one objective"),
        ({"budget": 0.0}, OptionError, "--budget 0.0: expected a number in .0, inf."),
        ({"finalists": 0}, OptionError, "--finalists 0: expected a whole number, 1 to 1000"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    descent: Begin, fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        descent(**{"strategy": None, **fields})


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(("fields", "flag"), [({"fidelity": "1/3,1"}, "--fidelity"), ({"prune": True}, "--prune")])
def test_an_evaluator_that_does_not_support_it_is_named(begin: Begin, fields: dict[str, Any], flag: str) -> None:
    with pytest.raises(PluginError, match=rf"{flag}: evaluator quick does not say .*SUPPORTS = \['.*quick\.py"):
        begin(**fields)


@pytest.mark.usefixtures("nothing_written")
def test_a_strategy_with_trials_of_its_own_is_refused(descent: Begin, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from evo_tune.strategies.random import Random\n"
        "class Mine(Random):\n"
        '    """Random, with budgets."""\n'
        "    own_trials = True\n"
    )
    with pytest.raises(
        PluginError, match=r"mine\.py decides itself .* --seeds-per-trial does not .*choose --strategy .*ga or"
    ):
        descent(strategy=str(path), seeds_per_trial=2)


def test_a_wrong_declaration_is_named(descent: Begin, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(DESCENT.replace('["budget", "curve"]', '["budgets"]'))
    with pytest.raises(PluginError, match=r"wrong\.py:10: SUPPORTS is \['budgets'\]: expected a list of 'budget'"):
        descent(evaluator=str(path))


def test_a_constraint_that_no_result_can_meet_is_told(begin: Begin, tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text(DESCENT.replace("METRICS =", "UNDECLARED ="))
    search = begin(evaluator=str(path), subject_to=["sise<=3"], slots=1)
    with pytest.raises(
        RunError, match=r"evaluate returned no 'sise', which --subject-to needs .it returned size, loss"
    ):
        search.run()
