"""Ranges that a run widens by itself: recorded before they are used, the same after a kill, and checked by `verify`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import SpaceError, StoreError
from evo_tune.forecast.clock import Clock
from evo_tune.genome.genes import Choice, Float, Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal
from evo_tune.genome.values import Value
from evo_tune.loop.code import load_code
from evo_tune.loop.deadline import Deadline
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import Disagreement, RangeDisagreement, verify
from evo_tune.store.manifest import space_of
from evo_tune.store.run import Run
from evo_tune.trust.decide import Consent
from tests.conftest import cut_copy, drive, rows, survivors
from tests.journals import events_of, line_of, write_events
from tests.strategies.cases import some

OUTSIDE = '''"""Its lowest loss is far above the range of lr and width, below that of batch, and inside that of x."""
import math
import time

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(
    lr=Float(1e-4, 1e-2, log=True, widest=(None, None)), width=Int(16, 64, step=16, widest=(None, None)),
    batch=Choice((16, 32, 64), ordered=True, widest=(None, None)), x=Float(-1.0, 1.0, widest=(None, None)),
    kind=Choice(("a", "b")), fixed=Choice((8, 16, 32), ordered=True, widest=(8, 32)),
    stated=Choice((1, 2, 4), ordered=True),
)
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "nats", "width": ""}
SUPPORTS = ["budget", "curve"]


def estimate(genome):
    if genome["batch"] < 4:
        raise ValueError("batch is too small")
    return {"width": genome["width"]}


def evaluate(genome, context, *, pause=0.0):
    time.sleep(pause)
    gaps = math.log(genome["lr"] / 0.08), (genome["width"] - 160) / 40, math.log(genome["batch"] / 4), genome["x"]
    loss = sum(gap * gap for gap in gaps) + (genome["kind"] == "b") + 0.2 / context.budget
    context.report(context.budget / 2, loss=loss + 1.0)
    return {"loss": loss - genome["fixed"] / 1e3}
'''

RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "rungs": {"fidelity": "1/3,1", "prune": True, "seeds_per_trial": 2},
    "auto": {"seeds_per_trial": "auto", "subject_to": ["width<=1000"]},
}

Begin = Callable[..., Search]


@pytest.fixture
def outside(begin: Begin, tmp_path: Path) -> Begin:
    """Return a function that begins a run whose optimum is outside its ranges."""
    path = tmp_path / "outside.py"
    path.write_text(OUTSIDE)
    return lambda **fields: begin(**{"evaluator": str(path), "trials": 40, "generations": None, **fields})


def differing(folder: Path) -> list[Disagreement | RangeDisagreement]:
    run = Run.open(folder)
    plugin, strategy = load_code(run, Consent(trust=True))
    return verify(run, space_of(run.manifest, plugin.space), strategy)


def evaluated(search: Search, candidate: Any) -> Any:
    """Return what the evaluator would, without a worker."""
    import math

    genome = candidate.genome
    gaps = math.log(genome["lr"] / 0.08), (genome["width"] - 160) / 40, math.log(genome["batch"] / 4), genome["x"]
    loss = sum(gap * gap for gap in gaps) + (genome["kind"] == "b") + 0.2 / candidate.budget
    return {"loss": loss - genome["fixed"] / 1e3, "width": float(genome["width"])}


def is_in(gene: Gene, value: Value) -> bool:
    try:
        gene.check(value)
    except SpaceError:
        return False
    return True


def changed(folder: Path, name: str, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    """Make a copy of a run with a changed journal."""
    copy = cut_copy(Run.open(folder), folder.with_name(name), 0)
    lines = events_of(folder)
    change(lines)
    write_events(copy, lines)
    return copy


def test_limits_come_from_genes_and_evaluator_and_are_saved(outside: Begin) -> None:
    limits = outside(name="r").saved.manifest.limits
    assert limits == {"lr": (1e-5, 0.1), "width": (16, 112), "batch": (4, 512), "x": (-3.0, 3.0)}
    assert outside(widen=False).saved.manifest.limits == {}
    assert outside(strategy="staged", strategy_options={"coarse": 4}).saved.manifest.limits == {}
    assert outside(strategy="nsga2", objectives=["loss:min", "width:min"]).saved.manifest.limits == {}
    typed = outside(
        genes={"fixed": Choice((8, 16), ordered=True), "lr": Float(1e-4, 1e-3, log=True, widest=(None, 2e-3))}
    )
    assert typed.saved.manifest.limits["lr"] == (1e-5, 2e-3)
    assert "fixed" not in typed.saved.manifest.limits, "the user states the range"


def test_a_limit_in_hours_predicts_the_duration_of_a_genome_in_a_widened_range(outside: Begin) -> None:
    run = drive(outside(name="r", trials=12, hours=1.0, widen=False), slots=1, evaluate=evaluated).saved
    space = SearchSpace(**run.genes)
    wide = SearchSpace(**{**run.genes, "batch": Choice((8, 16, 32, 64), ordered=True)})
    spaces = [space]
    deadline = Deadline(run, run.sessions[-1], Clock(run, None, lambda: spaces[-1]), 1, lambda: 3500.0)
    assert deadline.fits(Proposal(space.default(), "random"))
    spaces.append(wide)  # between two results
    assert deadline.fits(Proposal({**space.default(), "batch": 8}, "random"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "rules"),
    some(
        [(strategy, rules) for strategy in ("saea", "ga", "tpe", "hill") for rules in RULES],
        *(("saea", "none"), ("ga", "rungs"), ("ga", "auto"), ("hill", "none")),
    ),
)
def test_a_run_widens_its_ranges_and_replays(
    outside: Begin, resume: Begin, tmp_path: Path, strategy: str, rules: str
) -> None:
    search = drive(outside(name="r", strategy=strategy, **RULES[rules]), slots=3, evaluate=evaluated)
    run = search.saved
    assert run.widened
    assert all(one.reason for one in run.widened)
    assert {"kind", "fixed"}.isdisjoint(name for one in run.widened for name in one.changed)
    assert differing(run.folder) == []
    more = drive(resume("r", trials=55), slots=3, evaluate=evaluated).saved
    at_first = run.manifest.genes()
    assert any(not is_in(gene, one.genome[name]) for one in more.candidates for name, gene in at_first.items())
    assert differing(more.folder) == []


def test_a_range_is_recorded_before_a_genome_uses_it(outside: Begin) -> None:
    run = drive(outside(name="r"), evaluate=evaluated).saved
    kinds = [(event["event"], event) for event in events_of(run.folder)]
    high, seen = 1e-2, 0
    for kind, event in kinds:
        if kind == "widened" and "lr" in event["genes"]:
            high = event["genes"]["lr"]["high"]
            seen += 1
            assert "trials are at its high end" in event["reason"]
        elif kind == "proposed":
            assert event["candidate"]["genome"]["lr"] <= high
    assert seen
    assert high <= 0.1


def test_without_it_ranges_stay(outside: Begin) -> None:
    run = drive(outside(name="r", widen=False), evaluate=evaluated).saved
    assert run.widened == []
    assert max(one.genome["lr"] for one in run.candidates) <= 1e-2
    assert differing(run.folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
def test_in_proposal_order_slots_do_not_matter(outside: Begin, rules: str) -> None:
    given = {"strategy": "ga", "order": "proposal", "lag": 3, **RULES[rules]}
    one, four = (drive(outside(**given), slots=slots, evaluate=evaluated).saved for slots in (1, 4))
    assert rows(one) == rows(four)
    assert one.widened
    assert one.widened == four.widened


@pytest.mark.slow
@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_a_run_cut_anywhere_around_it_resumes_to_the_same_end(
    outside: Begin, resume: Begin, tmp_path: Path, order: str
) -> None:
    whole = drive(outside(name="r", strategy="ga", order=order, lag=1, trials=30), evaluate=evaluated).saved
    places = [place for place, event in enumerate(events_of(whole.folder)) if event["event"] == "widened"]
    assert len(places) >= 2
    around: set[int] = set()
    for place in places[:3]:
        around.update((place, place + 1, place + 2))
    for cut in around:
        folder = cut_copy(whole, tmp_path / "store" / f"cut-{cut}", cut)
        again = drive(resume(folder.name, trials=30, trust=True), evaluate=evaluated).saved
        assert [rest[:3] for rest in rows(again)] == [rest[:3] for rest in rows(whole)]
        assert again.widened == whole.widened
        assert survivors(again.folder) == survivors(whole.folder)
        assert differing(again.folder) == []


def test_ranges_widened_by_hand_and_by_the_run_go_together(outside: Begin, resume: Begin) -> None:
    before = len(drive(outside(name="r", strategy="ga", trials=25), evaluate=evaluated).saved.widened)
    wide = Float(1e-4, 0.5, log=True)
    run = drive(resume("r", genes={"lr": wide}, trials=45), evaluate=evaluated).saved
    assert [one.reason for one in run.widened].count("") == 1
    assert len(run.widened) > before + 1
    assert run.genes["lr"].decode(1.0) == 0.5, "the run does not go beyond its limit, nor back to it"
    assert differing(run.folder) == []


def test_verify_fails_where_an_event_is_missing_added_or_altered(outside: Begin) -> None:
    run = drive(outside(name="r", strategy="ga", trials=30), evaluate=evaluated).saved
    folder, last = run.folder, run.widened[-1]
    assert differing(folder) == []
    place = [at for at, event in enumerate(events_of(folder)) if event["event"] == "widened"][-1]

    def altered(lines: list[dict[str, Any]]) -> None:
        (gene,) = lines[place]["genes"].values()
        if "values" in gene:
            gene["values"] = [gene["values"][0] / 2, *gene["values"]]
        else:
            gene["high"] = gene["high"] * 2

    def another_reason(lines: list[dict[str, Any]]) -> None:
        lines[place]["reason"] = "because"

    def added(lines: list[dict[str, Any]]) -> None:
        gene = {**run.genes["x"].describe(), "high": 9.0}
        lines.insert(place, {**lines[place], "genes": {"x": gene}})

    def too_early(lines: list[dict[str, Any]]) -> None:
        lines.insert(10, lines.pop(place))

    for change in (altered, another_reason, added, too_early):
        try:
            found = differing(changed(folder, change.__name__, change))
        except StoreError:  # a later genome does not fit the range any more
            continue
        assert any(isinstance(one, RangeDisagreement) for one in found), change.__name__
    missing = cut_copy(Run.open(folder), folder.with_name("missing"), place)
    lines = [event for event in events_of(folder)[: place + 2] if event["event"] != "widened" or len(run.widened) > 1]
    del lines[place]
    inside = lines[place]["candidate"]["genome"]
    for name, gene in run.genes_when_proposed(last.proposed - 1).items():  # a genome of the earlier ranges
        inside[name] = gene.middle()
    inside["x"] = 0.123
    write_events(missing, lines)
    found = differing(missing)
    assert any(isinstance(one, RangeDisagreement) and one.recorded is None for one in found)


FLOAT = {"kind": "float", "low": 1e-4, "high": 3e-2, "log": True, "default": 1e-3}

HOSTILE: list[dict[str, Any]] = [
    {"genes": {"lr": {**FLOAT, "high": 1e999}}},
    {"genes": {"lr": {**FLOAT, "high": float("nan")}}},
    {"genes": {"lr": {**FLOAT, "high": 1e-3}}},
    {"genes": {"lr": {**FLOAT, "low": 2e-4}}},
    {"genes": {"nothing": FLOAT}},
    {"genes": {"lr": {**FLOAT, "widest": [1]}}},
    {"genes": {"lr": {**FLOAT, "widest": ["a", 1]}}},
    {"genes": {"lr": {**FLOAT, "widest": [1.0, 2.0]}}},
    {"genes": {"kind": {"kind": "choice", "values": ["a", "b"], "ordered": False, "widest": [0, 1], "default": "a"}}},
    {"genes": {}},
    {"genes": {"lr": FLOAT}, "reason": 5},
    {"genes": {"lr": FLOAT}, "reason": None},
    {"genes": {"lr": FLOAT}, "reason": "at its end", "more": 1},
]


def test_a_strangers_event_is_refused_in_a_line(outside: Begin) -> None:
    folder = drive(outside(name="r", trials=2), evaluate=evaluated).saved.folder
    before = (folder / "_journal.jsonl").read_text()
    for event in HOSTILE:
        line = json.dumps({"event": "widened", "time": 1.0, "reason": "at its end", **event})
        (folder / "_journal.jsonl").write_text(before + line_of(line.replace("Infinity", "1e999")))
        with pytest.raises(StoreError) as error:
            Run.open(folder)
        assert "_journal.jsonl" in str(error.value), event
        assert "\n" not in str(error.value)


def test_a_range_widened_by_the_run_cannot_pass_for_one_of_the_user(outside: Begin) -> None:
    folder = drive(outside(name="r", strategy="ga"), evaluate=evaluated).saved.folder

    def without_reason(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            line.pop("reason", None) if line["event"] == "widened" else None

    with pytest.raises(StoreError, match="without a reason, and not before a session"):
        Run.open(changed(folder, "changed", without_reason))


def test_a_strangers_limits_are_checked(outside: Begin) -> None:
    folder = drive(outside(name="r", trials=2), evaluate=evaluated).saved.folder
    manifest = json.loads((folder / "_run.json").read_text())
    for limits in ({"nothing": [0, 1]}, {"lr": [0]}, {"lr": [0, "1"]}, {"lr": 5}, []):
        (folder / "_run.json").write_text(json.dumps({**manifest, "limits": limits}))
        with pytest.raises(StoreError, match="damaged"):
            Run.open(folder)
