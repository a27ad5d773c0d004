"""The plan of a run: `--dry-run`, the timing of a few steps, and the budget of a training in time."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from evo_tune.cli.session import PlannedRun, print_plan
from evo_tune.cli.shared import OutputFlags
from evo_tune.forecast import timing
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import Genome
from evo_tune.loop import budget
from evo_tune.loop.budget import TRAININGS, StepTimings, affordable_trainings, needs_cost
from evo_tune.loop.plan import Request, RunPlan, plan_run
from evo_tune.loop.search import Search
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.settings import parse_settings
from evo_tune.store.run import Run
from tests.cli.conftest import Typed
from tests.conftest import rows

TIMED = '''"""Takes as long as it says, by its budget in flops."""
import time

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.5, 1.5), y=Float(-1, 1))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["timing"]


def takes(genome, pace, flops):
    return pace * genome["x"] * (0.1 + 0.9 * (flops or 1e6) / 1e6)


def evaluate(genome, context, *, pace: float = 0.02, flops: float | None = None):
    if context.timing:
        (context.folder / "left.txt").write_text("of a timing")
        return {"seconds": takes(genome, pace, flops), "judging": 0.1 * pace, "checkpoint": 1000.0}
    time.sleep(takes(genome, pace, flops))
    return {"loss": genome["x"] + genome["y"] ** 2}


def estimate(genome, *, pace, flops):
    return {"flops": flops or 1e6}
'''


@pytest.fixture
def timed(folder: Path) -> Path:
    path = folder / "timed.py"
    path.write_text(TIMED)
    return path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_dry_run_tells_a_plan_and_leaves_no_file(timed: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = timed.parent / "aside"
    aside.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    before, state = files(timed.parent), files(Path(os.environ["XDG_STATE_HOME"]))
    what = ("run", "timed.py", "-o", "pace=2", "--trials", "20", "--slots", "1", "--dry-run")
    done = typed(*what, "--price-per-hour", "3", "--name", "mine")
    assert done.code == 0, done
    assert "default genome, from timed steps: 2 s" in done.out
    assert "; 20 genomes, 6 to 14 trainings of the final comparison; " in done.out
    assert "at the given price" in done.out
    printed = typed(*what, "--format", "json").out
    data = json.loads(printed)["forecast"]
    msgspec.json.decode(printed.encode(), type=PlannedRun)
    search, race = 20 * 2, (6 + 14) / 2 * 2
    assert data["seconds"]["expected"] == pytest.approx(search + race, rel=0.25)
    assert data["seconds"]["low"] < search + race < data["seconds"]["high"]
    assert files(timed.parent) == before
    assert files(Path(os.environ["XDG_STATE_HOME"])) == state, "nor is anything trusted for it"


def test_a_dry_run_says_all_that_was_read_and_a_training_the_first_lines(folder: Path, typed: Typed) -> None:
    columns = [f"c{number}" for number in range(1, 16)]
    rows = [
        f"{n},{'b' if n % 3 else 'a'},{n % 11 + 0.5}," + ",".join(str(n * k % 13) for k in range(1, 16))
        for n in range(60)
    ]
    (folder / "table.csv").write_text("\n".join([",".join(["id", "kind", "price", *columns]), *rows]))
    words = ("tabular", "-o", "data=table.csv", "-o", "target=kind", "-o", "epochs=0.5")
    done = typed("run", *words, "--dry-run")
    assert done.code == 0, done
    lines = done.err.splitlines()
    assert lines[0].startswith("tabular: 60 rows: 36 for training")
    assert "tabular: left out: id (identifier: counts the rows)" in lines
    assert any(line.startswith("tabular: c15: number, ") for line in lines)
    planned = json.loads(typed("run", *words, "--dry-run", "--format", "json").out)
    assert planned["data"][2] == "2 classes: b 40, a 20"
    assert planned["fingerprint"]
    trained = typed("evaluate", *words).err
    assert "more lines: evo-tune run tabular --dry-run, with the same -o" in trained
    assert trained.count("tabular: ") == 10 + trained.count("step")


@pytest.mark.parametrize("words", [("run", "KERNEL"), ("run", "tabular", "-o", "data=KERNEL", "-o", "target=a")])
def test_a_file_of_the_kernel_is_empty(typed: Typed, folder: Path, words: tuple[str, ...]) -> None:
    """Reading /proc/kmsg waits forever; its size is 0, as that of /proc/uptime, which a failing test reads at once."""
    done = typed(*(word.replace("KERNEL", "/proc/uptime") for word in words), "--dry-run")
    assert done.code == 2, done
    assert "is empty" in done.err
    assert "Error: " in done.err.splitlines()[-1]


def test_a_dry_run_of_what_cannot_be_timed_says_so(folder: Path, typed: Typed) -> None:
    done = typed("run", "quick.py", "--trials", "5", "--dry-run")
    assert done.code == 0
    assert "'timing'" in done.out
    assert "after three trainings" in done.out


def test_hours_too_short_for_a_training_name_the_hours_that_are_needed(timed: Path, typed: Typed) -> None:
    done = typed("run", "timed.py", "-o", "pace=90", "--hours", "0.001", "--slots", "1", "--name", "one", "--no-report")
    assert "s take too long for 0.001 hours; " in done.out, done
    hours = float(done.out.split("next: evo-tune resume one --hours ")[1])
    assert f"{hours:g} hours are enough for 12 and the final comparison" in done.out
    assert 12 * 90 < 3600 * hours < 50 * 90


@pytest.mark.slow
def test_timings_are_no_trials_and_a_run_tells_its_forecast(timed: Path, typed: Typed) -> None:
    what = "run timed.py -o pace=0.3 --trials 6 --final-seeds 0 --slots 1 --order proposal --no-report"
    told = typed(*what.split(), "--name", "told", "--store", "store")
    assert told.code == 0, told
    assert told.out.splitlines()[0].startswith("forecast: about")
    assert typed(*what.split(), "--name", "quiet", "--store", "store", "--quiet").code == 0
    runs = [Run.open(timed.parent / "store" / name) for name in ("told", "quiet")]
    assert rows(runs[0]) == rows(runs[1])
    assert not [name for name in files(runs[0].folder) if "timing" in name]
    with Search("timed.py", store="store", name="by-hand", trials=3, final_seeds=0) as search:
        search.run()
        assert search.clock.pace is None, "nobody asked"


PRICED = '''"""A training that takes as many seconds as a step costs, by its option seconds."""
from dataclasses import dataclass

from evo_tune import Float, Minimize, SearchSpace, option
from evo_tune.training.recipe.hardware.computing import TimeBudget

SPACE = SearchSpace(size=Float(1.0, 8.0, default=2.0))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["timing", "budget"]
METRICS = {"loss": "", "steps": "", "seconds": "s"}


@dataclass(frozen=True, kw_only=True)
class Options(TimeBudget):
    """Budget."""

    tokens: int | None = option(None, gene=None)
    short: bool = option(False, gene=None)


def work(genome, options):
    return {"step": 1.0, "size": genome["size"], "judged size": 10 * genome["size"]}


def remarks(options):
    return ["too long"] if options.short and (options.seconds or 0) > 3.0 else []


def steps(genome, options):
    return options.tokens or (1000 if options.seconds is None else round(options.steps_in_time(work(genome, options))))


def estimate(genome, options):
    count = steps(genome, options)
    return {"steps": float(count), **options.seconds_estimate(work(genome, options), count)}


def evaluate(genome, context, options: Options):
    step = 1e-3 + 1e-3 * genome["size"]
    if context.timing:
        return {"seconds": 0.2 + 1000 * step, "judging": 0.1 + 0.01 * genome["size"], "step": step}
    return {"loss": genome["size"] / steps(genome, options)}
'''


@pytest.fixture
def priced(folder: Path) -> Evaluator:
    (folder / "priced.py").write_text(PRICED)
    return find_evaluator("priced.py", {}, {})


def plan(plugin: Evaluator, options: dict[str, str] | None = None, forecast: bool = False, **settings: Any) -> RunPlan:
    request = Request(options=options or {})
    return plan_run(plugin, request, *parse_settings({"slots": 2, **settings}), Path("store"), forecast)


@pytest.mark.slow
def test_without_a_budget_every_genome_gets_the_time_of_the_default(priced: Evaluator) -> None:
    found = plan(priced, generations=5)
    options = found.manifest.options
    assert options["seconds"] == pytest.approx(3.1, rel=0.1), "1000 steps of 3 ms, and evaluations"
    assert f"-o seconds={options['seconds']:g}" in "".join(found.choices)
    assert "default genome" in "".join(found.choices)
    for size, steps in ((1.0, 1500), (2.0, 1000), (8.0, 333)):
        known = found.evaluator.estimate({"size": size})
        assert known["steps"] == pytest.approx(steps, rel=0.1)
        assert known["seconds"] == pytest.approx(options["seconds"], rel=0.01)
    assert not Path("store").exists()
    assert not needs_cost(found.evaluator), "a plan is made once"
    again = priced.bind(options)
    assert [again.estimate({"size": one}) for one in (1.0, 5.0)] == [
        found.evaluator.estimate({"size": one}) for one in (1.0, 5.0)
    ], "the manifest alone fixes the steps, on any machine"


@pytest.mark.slow
@pytest.mark.parametrize("slowness", [1, 10])
def test_without_options_and_limits_the_search_takes_three_minutes_on_any_machine(folder: Path, slowness: int) -> None:
    (folder / "priced.py").write_text(PRICED.replace("+ 1e-3 * genome", f"+ {slowness}e-3 * genome"))
    found = plan(find_evaluator("priced.py", {}, {}))
    assert found.manifest.options["seconds"] == pytest.approx(180 * 2 / 60)
    assert "60 full trainings fit into 3 minutes of search" in "".join(found.choices)


@pytest.mark.slow
def test_hours_choose_the_time_of_a_training(priced: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(priced, hours=0.1)
    room = (360 - found.seconds) * 2
    assert found.manifest.options["seconds"] == pytest.approx(room / TRAININGS, rel=0.05)
    assert "--hours" in "".join(found.choices)
    monkeypatch.setattr("evo_tune.loop.budget.PLANNING_SHARE", math.inf)  # hours so short would end the timing
    least = plan(priced, hours=1e-4).manifest.options["seconds"]
    assert least == pytest.approx(3.1 / 8, rel=0.1), "no shorter than an eighth of the evaluator's own"
    enough = plan(priced, {"short": "true"}, hours=0.1)
    assert enough.manifest.options["seconds"] == pytest.approx(3.1, rel=0.1)
    assert "data" in "".join(enough.choices)


@pytest.mark.slow
def test_a_budget_that_was_given_stands(priced: Evaluator) -> None:
    found = plan(priced, {"seconds": "2"})
    assert (found.manifest.options["seconds"], found.choices) == (2.0, ())
    assert found.manifest.options["cost"]
    counted = plan(priced, {"tokens": "50"}, hours=0.1, fidelity="1")
    assert (counted.manifest.options["cost"], counted.pace, counted.choices) == ("", None, ())
    assert counted.manifest.options["seconds"] is None
    assert plan(priced, {"tokens": "50"}, forecast=True).pace is not None
    assert plan(priced, {"tokens": "50"}, hours=0.1).pace is not None, "rungs are chosen by the length of a training"


@pytest.mark.slow
def test_the_cost_is_measured_in_the_space_that_the_budget_chooses(folder: Path) -> None:
    source = PRICED.replace(
        "SPACE = SearchSpace(size=Float(1.0, 8.0, default=2.0))",
        "def SPACE(options):\n"
        "    low = 20.0 if (options.seconds or 0) >= 2 else 1.0\n"
        "    return SearchSpace(size=Float(low, 8 * low, default=2 * low))\n",
    ).replace('step = 1e-3 + 1e-3 * genome["size"]', 'step = 1e-3 * genome["size"] * (5 if genome["size"] > 10 else 1)')
    (folder / "priced.py").write_text(source)
    found = plan(find_evaluator("priced.py", {}, {}), {"seconds": "2"})
    assert found.evaluator.estimate({"size": 40.0})["steps"] == pytest.approx((2.0 - 0.5) / 0.2, rel=0.15)


@pytest.mark.slow
def test_a_default_that_cannot_be_timed_leaves_the_cost_to_the_others(folder: Path) -> None:
    source = PRICED.replace("    if context.timing:", '    if context.timing:\n        assert genome["size"] != 2.0')
    (folder / "priced.py").write_text(source)
    found = plan(find_evaluator("priced.py", {}, {}), {"seconds": "2"})
    assert found.evaluator.estimate({"size": 8.0})["steps"] == pytest.approx(1.8 / 9e-3, rel=0.15)


@pytest.mark.slow
def test_a_search_plans_by_itself_and_resumes_to_the_same_steps(priced: Evaluator) -> None:
    del priced
    with Search("priced.py", store="store", name="run", trials=4, slots=1, order="proposal") as search:
        search.run()
        budget = search.saved.manifest.options["seconds"]
        assert search.choices
    with Search.resume("run", store="store", trials=8) as longer:
        longer.run()
    assert longer.saved.manifest.options["seconds"] == budget
    trials = longer.trials
    assert len(trials) == 8
    assert len({trial.outcome.metrics["steps"] for trial in trials}) > 4
    assert all(trial.outcome.metrics["seconds"] == pytest.approx(budget, rel=0.01) for trial in trials)


@pytest.fixture
def parted(folder: Path) -> Evaluator:
    (folder / "parted.py").write_text(TIMED.replace('["timing"]', '["timing", "budget"]'))
    return find_evaluator("parted.py", {}, {})


@pytest.mark.slow
def test_long_trainings_get_rungs_before_the_run_begins(
    parted: Evaluator, timed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"pace": "30"}
    found = plan(parted, long, hours=0.25)
    assert found.manifest.settings.fidelity == "1/9,1/3,1"
    fit = re.search(r"^rungs 1/9, 1/3, 1: (\d+) full trainings of [\d.]+ s fit into 0.25 hours$", found.choices[-1])
    assert fit is not None, found.choices
    print_plan(parted, Request(options=long), {"slots": 2, "hours": 0.25}, Path("store"), OutputFlags())
    assert "\nrungs 1/9, 1/3, 1: " in capsys.readouterr().out, "a line each"
    assert found.pace is not None
    assert int(fit[1]) == pytest.approx(affordable_trainings(2, found.seconds, SESSION, found.pace.mean_seconds), abs=1)
    assert plan(parted, long, hours=0.25, fidelity="1").manifest.settings.fidelity == "1"
    assert plan(parted, long, hours=0.01).choices == (), "hardly a training fits"
    assert plan(parted, {"pace": "2"}, hours=0.02).choices == (), "the first rung would take less than 3 s"
    assert plan(parted, long, hours=0.25, trials=20).choices == (), "20 genomes are trained in full in less time"
    two = Request(options=long, objectives=["loss:min", "flops:min"])
    assert plan_run(parted, two, *parse_settings({"slots": 2, "hours": 0.25}), Path("store")).choices == ()
    able = find_evaluator(str(timed), {}, {})
    assert plan(able, long, hours=0.25).manifest.settings.fidelity == "1", "it has no partial trainings"


SESSION = parse_settings({"hours": 0.25})[1]


def test_the_final_comparison_takes_its_share_of_the_affordable_trainings() -> None:
    assert affordable_trainings(2, 0.0, SESSION, 30.0) == 60.0
    compared = parse_settings({"hours": 0.25, "final_seeds": 3, "finalists": 2})[1]
    assert 45.0 < affordable_trainings(2, 0.0, compared, 30.0) < 55.0
    assert affordable_trainings(2, 450.0, SESSION, 30.0) == 30.0
    assert affordable_trainings(2, 0.0, parse_settings({"hours": 0.25, "budget": 7})[1], 30.0) == 7.0
    assert affordable_trainings(2, 0.0, parse_settings({"trials": 7})[1], 30.0) == math.inf


def test_rungs_settle_the_schedule_and_what_refuses_them_goes_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = StepTimings({0: {"seconds": 60.0, "step": 0.1, "judging": 1.0}}, 0, 1, "cpu")
    monkeypatch.setattr("evo_tune.loop.budget.time_steps", lambda *_, **__: timings)
    plugin = find_evaluator("language_model")

    def plan_with(**options: object) -> RunPlan:
        request = Request(options={"size": "small", "flops": 1e9, **options})
        return plan_run(plugin, request, *parse_settings({"hours": 1.0, "slots": 1}), folder)

    plan = plan_with()
    assert len(plan.manifest.settings.rungs) == 3
    assert plan.manifest.options["schedule"] == plan.evaluator.options["schedule"] == "wsd"
    assert plan.manifest.options["fork"] is True


@pytest.mark.slow
@pytest.mark.usefixtures("priced")
def test_evaluate_measures_the_cost_for_a_budget_in_time(typed: Typed) -> None:
    done = typed("evaluate", "priced.py", "-o", "seconds=2", "-g", "size=8", "--format", "json")
    assert done.code == 0, done
    # A busy machine may time nothing in a twentieth of two seconds; that is said then.
    if "No step was timed so soon" not in done.err:
        assert json.loads(done.out)["metrics"]["steps"] == pytest.approx(200, rel=0.15)


@pytest.mark.usefixtures("priced")
def test_evaluate_says_that_no_step_was_timed(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_nothing(*arguments: Any) -> Any:
        time.sleep(2)  # all of the time
        return {}, 0

    monkeypatch.setattr(budget, "time_genomes", time_nothing)
    done = typed("evaluate", "priced.py", "-o", "seconds=2", "-g", "size=8")
    assert "No step was timed so soon: the length of the training follows from usual costs" in done.err, done


@pytest.mark.usefixtures("priced")
def test_evaluate_times_steps_for_a_twentieth_of_the_time_and_says_so(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def record(*arguments: Any) -> Any:
        limits.append(arguments[-1].longest)
        return {0: {"seconds": 3.2, "judging": 0.12, "step": 3e-3}}, 0

    monkeypatch.setattr(budget, "time_genomes", record)
    done = typed("evaluate", "priced.py", "-o", "seconds=100")
    assert (done.code, limits) == (0, [2.5]), done
    assert "Timing a few steps before the training: at most 5 s" in done.err
    assert typed("evaluate", "priced.py", "-o", "seconds=100", "--budget", "0.2").code == 0
    assert typed("evaluate", "priced.py", "-o", "seconds=9000").code == 0
    assert limits == [2.5, 0.5, 20.0]
    assert "Timing" not in typed("evaluate", "priced.py", "-o", "tokens=5").err


@pytest.mark.parametrize(
    ("limit", "least", "count"), [(0.5, 1, 1), (5.0, 1, 5), (5.9, 1, 5), (100.0, 1, 9), (0.5, 3, 3), (5.0, 3, 5)]
)
def test_no_timing_but_the_first_begins_that_would_end_after_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, least: int, count: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep))

    class SlowSlot:
        """A slot whose worker starts in three seconds; each timing takes one."""

        name, available, memory = "slot 0", True, 0

        def run(self, candidate: Candidate, folder: str) -> Outcome:
            del folder
            clock[0] += 1.0 if candidate.timing == timing.STEPS else 3.0
            return Outcome("ok", {"seconds": 60.0})

    genomes: list[Genome] = [{"size": float(size)} for size in range(9)]
    how = timing.Timing(folder=tmp_path, longest=limit, least=least)
    rows, _ = timing.time_genomes([SlowSlot()], genomes, how)  # type: ignore[list-item]
    assert len(rows) == count
