"""Inheritance in real runs: who begins with whose weights, what is never mixed, resumed, replayed, refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evo_tune.cli.closing import print_closing
from evo_tune.errors import OptionError, PluginError
from evo_tune.genome.standing import Entry, as_from_scratch
from evo_tune.genome.trial import Candidate, Minimize, Outcome, Trial
from evo_tune.loop.code import ruled
from evo_tune.loop.replay import verify
from evo_tune.loop.search import Search
from evo_tune.report.calibration import calibrated, recommended
from evo_tune.report.summary import best_so_far, closing, front, inheritance, spent
from evo_tune.store.manifest import space_of
from evo_tune.store.run import Run
from tests.conftest import cut_copy, drive, rows, survivors

DESCENT = '''"""Gradient descent; its model is where it stands."""
import json
import math

from evo_tune import Choice, Float, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(1e-3, 0.3, log=True, default=0.01), size=Choice((1, 2, 3), ordered=True))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["inherit"]


def inherits(genome, other, *, never: bool = False):
    return genome["size"] == other["size"] and not never


def evaluate(genome, context, *, steps: int = 30, never: bool = False):
    x = 5.0
    if context.inherit_folder:
        x = json.loads((context.inherit_folder / "weights.json").read_text())
    began = x
    for _ in range(math.ceil(context.budget * steps)):
        x -= genome["lr"] * 2 * (x - genome["size"])
    if context.keep:
        (context.folder / "weights.json").write_text(json.dumps(x))
    return {"loss": (x - genome["size"]) ** 2 + genome["size"] / 9 + genome["lr"], "began": began, "ended": x}
'''

Begin = Callable[..., Search]


@pytest.fixture
def descent(begin: Begin, tmp_path: Path) -> Begin:
    """Return a function that begins a run of an evaluator whose weights can be inherited."""
    path = tmp_path / "descent.py"
    path.write_text(DESCENT)
    return lambda name=None, **fields: begin(name, **{"evaluator": str(path), "inherit": "1/3", **fields})


def flattered(search: Search, candidate: Candidate) -> Any:
    """Return an outcome right here: those that inherit are far ahead of all others, one in five fails."""
    lr, size = candidate.genome["lr"], candidate.genome["size"]
    if int(lr * 1e6) % 5 == 0:
        return Outcome("failed", error="no luck")
    return {"loss": abs(math.log(lr / 0.05)) + size / 9 - (100.0 if candidate.inherits is not None else 0.0)}


def agree(run: Run, search: Search) -> bool:
    space = space_of(run.manifest, search.evaluator.space(run.manifest.options))
    return verify(run, space, ruled(run.manifest, search.evaluator, run.manifest.strategy)) == []


def test_a_child_begins_with_what_a_relative_left(descent: Begin) -> None:
    search = descent("run", slots=2, population=8, generations=5, calibrate=1).run()
    run = Run.open(search.saved.folder)
    heirs = [trial for trial in run.trials() if trial.candidate.inherits is not None]
    assert len(heirs) > 8
    for heir in heirs:
        origin = run.trial(heir.candidate.inherits or 0)
        assert heir.candidate.budget == 1 / 3
        assert heir.genome["size"] == origin.genome["size"]
        assert origin.rankable
        assert heir.outcome.metrics["began"] == origin.outcome.metrics["ended"]
    assert spent(run) == pytest.approx(len(run.candidates) - len(heirs) * 2 / 3)
    kept = {int(path.parent.name) for path in run.folder.glob("_trials/*/weights.json")}
    assert kept == {trial.id for trial in run.ranked()[:2]}  # the best quarter of a population
    assert agree(run, search)
    frame = pd.read_parquet(run.folder).set_index("id")
    assert set(frame[frame["inherits"].notna()].index) == {trial.id for trial in heirs}
    assert set(frame["confirms"].dropna()) <= {trial.id for trial in heirs}


@pytest.mark.parametrize("order", ["arrival", "birth"])
def test_results_that_inherited_are_never_mixed_with_the_others(
    descent: Begin, tmp_path: Path, order: str, fast_disk: None
) -> None:
    search = drive(descent(generations=8, order=order), slots=3, evaluate=flattered)
    run = search.saved
    whole = {id for id, candidate in enumerate(run.candidates) if candidate.whole}
    assert len(whole) < len(run.candidates)
    found = [run.leader, recommended(run), closing(run).best, *front(run), *run.ranked(), *search.history.ranked()]
    assert {trial.id for trial in found if trial} <= whole
    assert {id for _, _, id in best_so_far(run)} <= whole
    assert {row.id for row in calibrated(run)} <= whole
    assert all(trial.losses is None or trial.losses[0] > 0 for trial in run.ranked())
    assert sum(candidate.fresh for candidate in run.candidates) == 8 * 4
    assert len({json.dumps(one.genome) for one in run.candidates if one.fresh}) == 8 * 4
    assert agree(run, search)


def test_who_leads_was_trained_from_scratch(
    descent: Begin, fast_disk: None, capsys: pytest.CaptureFixture[str]
) -> None:
    search = drive(descent(generations=8), slots=2, evaluate=flattered)
    again = [trial for trial in search.trials if trial.candidate.confirms is not None]
    before = [search.trials[trial.candidate.confirms or 0] for trial in again]
    assert [trial.genome for trial in before] == [trial.genome for trial in again]
    assert all(trial.candidate.inherits is not None and trial.ok for trial in before)
    heirs = [trial.id for trial in search.trials if trial.candidate.inherits is not None]
    audits = [id for number, id in enumerate(heirs, 1) if number & (number - 1) == 0 and search.trials[id].ok]
    assert set(audits) <= {trial.id for trial in before}
    assert len(again) < len(heirs)
    leader = search.strategy.survivors(search.history)[0]
    assert search.best is not None
    assert search.best.id == leader
    correlation, count = inheritance(search.trials)
    assert count == sum(trial.ok for trial in again)
    assert correlation > 0.9  # here inherited losses are the others, shifted
    print_closing(search.saved, "table")
    assert f"{len(heirs)} genomes began with weights of others, {count} of them were trained" in capsys.readouterr().out


@pytest.mark.parametrize("order", ["arrival", "birth"])
def test_a_run_killed_anywhere_goes_on_the_same(
    descent: Begin, resume: Begin, tmp_path: Path, order: str, fast_disk: None
) -> None:
    given = {"order": order, "lag": 2, "generations": 6, "replicates": 2}
    whole = drive(descent("whole", **given), evaluate=flattered)
    lines = (whole.saved.folder / "_journal.jsonl").read_bytes().splitlines()
    for cut in range(20, len(lines) - 1, 9):
        cut_copy(whole.saved, tmp_path / "store" / f"cut-{cut}", cut)
        again = drive(resume(f"cut-{cut}"), evaluate=flattered)
        assert rows(again) == rows(whole)
        assert survivors(again.saved.folder) == survivors(whole.saved.folder)


def test_weights_are_kept_for_whoever_is_out(descent: Begin, fast_disk: None) -> None:
    search = descent("run", generations=None, trials=12)
    waiting: dict[int, Candidate] = {}
    while (candidate := search.ask()) is not None:
        folder = search.saved.folder / "_trials" / f"{candidate.id:06d}"
        if candidate.inherits is not None and candidate.inherits not in waiting:
            waiting[candidate.inherits] = candidate  # told last: others may have driven its origin out by then
            continue
        if candidate.whole:
            folder.mkdir(parents=True)
            (folder / "weights.json").write_text("0")
        search.tell(candidate, {"loss": 1.0 / (1 + candidate.id)})
        needed = {candidate.inherits for candidate in waiting.values()}
        assert needed <= {int(path.parent.name) for path in search.saved.folder.glob("_trials/*/weights.json")}
    assert waiting


def entry(key: str, inherited: float | None = None, scratch: float | None = None) -> Entry:
    def trial(loss: float, **fields: Any) -> Trial:
        candidate = Candidate(0, 0, 0, 0, {"x": key}, "", **fields)
        return Trial.of(candidate, Outcome("ok", {"loss": loss}), 0, [Minimize("loss")])

    made = Entry(key, Candidate(0, 0, 0, 0, {"x": key}, ""))
    made.heir = None if inherited is None else trial(inherited, inherits=0, budget=0.5)
    if scratch is not None:
        made.results[1.0] = trial(scratch)
    return made


def test_inherited_losses_are_read_off_the_genomes_that_have_both() -> None:
    heirs = [entry("a", 0.5), entry("b", 1.5), entry("c", 4.0), entry("own", scratch=9.0)]
    assert as_from_scratch(heirs) == {"a": (0.5,), "b": (1.5,), "c": (4.0,), "own": (9.0,)}
    both = [entry("p", 1.0, 3.0), entry("q", 2.0, 7.0)]
    assert as_from_scratch([*heirs, *both]) == {
        "own": (9.0,),
        "p": (3.0,),
        "q": (7.0,),
        "a": (2.5,),
        "b": (5.0,),
        "c": (9.0,),
    }


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"inherit": "a third"}, OptionError, "--inherit a third: expected a fraction of a full training, such as 1/3"),
        ({"inherit": "1"}, OptionError, "--inherit 1: expected a fraction above 0 and below 1"),
        ({"inherit": "-1/3"}, OptionError, "--inherit -1/3: expected a fraction above 0 and below 1"),
        ({"objectives": ["loss:min", "began:min"]}, OptionError, "--inherit: expected one objective, and 2 were given"),
        ({"options": {"never": True}}, OptionError, "--inherit: with these options a model of descent cannot begin"),
        ({"strategy": "staged"}, PluginError, "strategy staged decides itself .* --inherit does not go with it"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    descent: Begin, tmp_path: Path, fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        descent(**{"strategy": None if "objectives" in fields else "ga", **fields})
    assert not (tmp_path / "store").exists()


def test_who_cannot_is_told_who_can(begin: Begin) -> None:
    with pytest.raises(PluginError, match=r"evaluator quick does not say .*'inherit'.*language_model can do it"):
        begin(inherit="1/3")


def test_it_does_not_go_with_rungs(descent: Begin, tmp_path: Path) -> None:
    path = tmp_path / "both.py"
    path.write_text(DESCENT.replace('["inherit"]', '["inherit", "budget"]'))
    with pytest.raises(OptionError, match="--inherit and --fidelity are both given: give one of them"):
        descent(evaluator=str(path), fidelity="1/3,1")


def test_a_run_from_before_opens(begin: Begin, fast_disk: None) -> None:
    run = drive(begin(generations=1)).saved
    manifest = json.loads((run.folder / "_run.json").read_text())
    del manifest["inherit"]
    (run.folder / "_run.json").write_text(json.dumps(manifest))
    lines = [json.loads(line) for line in (run.folder / "_journal.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("inherits", "confirms"):
            line.get("candidate", {}).pop(name, None)
    (run.folder / "_journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert rows(Run.open(run.folder)) == rows(run)
