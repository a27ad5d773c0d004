"""Runs with patches: copies of the project, what a trial may change, and patches that join in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evo_tune.cli import cli
from evo_tune.errors import OptionError, PluginError, UsageError
from evo_tune.genome.trial import Candidate, Outcome, TrialCode
from evo_tune.loop import slots
from evo_tune.loop.code import load_code, patch_set_of, remember_patch
from evo_tune.loop.search import Search
from evo_tune.loop.verifying import verify
from evo_tune.plugins.patches import CODE_FOLDER, parse_patch, read_patches
from evo_tune.plugins.patches.project import write_copy
from evo_tune.report.charts import patches
from evo_tune.report.data import run_details, run_summary
from evo_tune.report.recommendation import comparison_as_requested, comparison_result, genome_without, patches_on
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import patch_verdicts, unusual_time_lines
from evo_tune.store.inbox import submit_patch
from evo_tune.store.manifest import copy_manifest
from evo_tune.store.run import Run
from evo_tune.store.table import read_comparison
from evo_tune.trust.decide import Consent
from tests.conftest import cut_copy, drive, open_here, rows
from tests.journals import events_of, write_events

pytestmark = pytest.mark.usefixtures("here", "fast_disk")

# Kills of the test of kills.
KILLS = 4

TRAIN = """import json
import os
import sys

from parts.model import loss

lr, seed = float(sys.argv[1]), int(sys.argv[2])
gain = 0.0
# middle
scale = 1.0
# end
print(json.dumps({"val_loss": loss(lr) * scale - gain + seed % 97 / 1e4, "files": len(os.listdir("data"))}))
"""

PATCHES = {
    "gain": ("gain = 0.0", "gain = {size=float(0.1,0.3)}", 8),
    "scale": ("scale = 1.0", "scale = 0.5", 10),
    "worse": ("scale = 1.0", "scale = 2.0", 10),
}


def patch_text(old: str, new: str, line: int, path: str = "train.py", head: str = "") -> str:
    """Return a patch of a line, with the lines around it as its context."""
    lines = Path(path).read_text().splitlines()
    assert lines[line - 1] == old
    before, after = lines[line - 2], lines[line]
    hunk = f"@@ -{line - 1},3 +{line - 1},3 @@\n {before}\n-{old}\n+{new}\n {after}\n"
    return f"{head}diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n{hunk}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project in the working directory, with patches, data and a judge."""
    return make_project(tmp_path / "project", monkeypatch)


def make_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "parts").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "patches").mkdir()
    monkeypatch.chdir(folder)
    (folder / "train.py").write_text(TRAIN)
    (folder / "parts" / "model.py").write_text("def loss(lr):\n    return 1 + abs(lr - 0.5)\n")
    (folder / "data" / "text.bin").write_bytes(b"abc")
    (folder / "judge.py").write_text(
        "import json, sys\nprint(json.dumps({'val_loss': len(open(sys.argv[1] + '/out.txt').read())}))\n"
    )
    for name, (old, new, line) in PATCHES.items():
        (folder / "patches" / f"{name}.patch").write_text(patch_text(old, new, line))
    return folder


def start(project: Path, name: str = "run", command: str = "python train.py {lr} {seed}", **given: Any) -> Search:
    defaults: dict[str, Any] = {
        "space": {"lr": "float(0,1)"},
        "patches": "patches",
        "objectives": ["val_loss:min"],
        "trials": 4,
        "slots": 1,
        "strategy": "ga",
        "population": 4,
        "baseline": False,
    }
    return Search(command, store=project / "populations", name=name, **{**defaults, **given})


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and "populations" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def by_table(search: Search, candidate: Candidate) -> dict[str, float]:
    """Return the loss of a genome without a training."""
    genome = candidate.genome
    loss = abs(float(genome["lr"]) - 0.5) + 1.0 - 0.2 * bool(genome["gain"]) + 0.01 * (candidate.seed % 7)
    return {"val_loss": loss * (0.5 if genome["scale"] is True else 2.0 if genome["worse"] is True else 1.0)}


def agrees(run: Run) -> bool:
    bound, rules = load_code(run, Consent(trust=True))
    return verify(run, bound.space, rules) == []


def test_trials_run_in_copies_and_the_project_stays_as_it_is(project: Path) -> None:
    before = contents(project)
    search = start(project, warm_start=[{"lr": 0.5, "gain": True, "size": 0.25, "scale": True, "worse": True}]).run()
    assert contents(project) == before
    trials = {trial.id: trial for trial in search.saved.trials()}
    assert trials[0].candidate.code == TrialCode(search.saved.code_of({}).project)  # type: ignore[union-attr]
    assert not any(trials[0].genome[name] for name in PATCHES)
    warm = trials[1]
    assert warm.genome == {"lr": 0.5, "gain": True, "size": 0.25, "scale": True, "worse": False}
    assert warm.outcome.metrics["val_loss"] == pytest.approx(0.5 - 0.25 + warm.candidate.seed % 97 / 1e4)
    assert warm.outcome.metrics["files"] == 1  # data are linked
    assert [name for name, _ in warm.candidate.code.patches] == ["gain", "scale"]  # type: ignore[union-attr]
    assert all(trial.genome["size"] == 0.2 for trial in trials.values() if not trial.genome["gain"])
    assert not list(search.saved.folder.glob("_trials/*/project"))
    assert agrees(Run.open(search.saved.folder))
    assert [patch.name for patch in read_patches(search.saved.folder, search.saved.patch_hashes)] == sorted(PATCHES)


def test_later_edits_of_the_user_change_no_trial(project: Path) -> None:
    search = start(project)
    (project / "train.py").write_text("raise SystemExit('edited')\n")
    shutil.rmtree(project / "patches")
    search.run()
    assert all(outcome.status == "ok" for outcome in search.saved.outcomes.values())
    again = Search.resume("run", store=project / "populations", trials=5).run()
    assert len(again.saved.outcomes) == 5
    assert all(outcome.status == "ok" for outcome in again.saved.outcomes.values())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_repository_is_taken_with_its_uncommitted_changes(project: Path) -> None:
    (project / "cache").mkdir()
    (project / "cache" / "helper.py").write_text("x")
    (project / ".gitignore").write_text("cache/\npopulations/\n")
    for words in (["init", "-q"], ["add", "train.py", "parts", ".gitignore"]):
        subprocess.run(["git", *words], check=True)
    (project / "parts" / "model.py").write_text("def loss(lr):\n    return 7 + abs(lr - 0.5)\n")
    (project / "parts" / "new.py").write_text("# not added yet\n")
    search = start(project)
    code = search.saved.candidates or [search.ask()]
    listing = write_copy(search.saved.folder, code[0].code, {}, project.parent / "copy")  # type: ignore[union-attr,arg-type]
    assert {"train.py", "parts/model.py", "parts/new.py", "judge.py"} <= listing.files.keys()
    assert listing.links == {name: str(project / name) for name in ("cache", "data", "patches")}
    assert "return 7" in (project.parent / "copy" / "parts" / "model.py").read_text()
    search.close()


EVIL = {
    "os.unlink('judge.py')": "the trial removed judge.py",
    "os.chmod('judge.py', 0o600)": "",
    "open('data/more', 'w').write('x')": "the trial made data/more",
    "os.unlink('data/more'); open('data/text.bin', 'w').write('x')": "the trial changed data/text.bin, which is",
}
"""What patches do, one after the other, and the error of each one's trial."""


def test_a_trial_that_changes_a_protected_file_fails(project: Path) -> None:
    for number, command in enumerate(EVIL):
        (project / "patches" / f"evil{number}.patch").write_text(patch_text("# end", command, 11))
    settings = {"protect": ["judge.py", "data/"], "fill_defaults": True, "trials": len(EVIL) + 1}
    warm = [{"lr": 0.5, f"evil{number}": True} for number in range(len(EVIL))]
    _, *outcomes = start(project, warm_start=warm, **settings).run().saved.outcomes.values()
    for outcome, error in zip(outcomes, EVIL.values(), strict=True):
        assert outcome.status == ("failed" if error else "ok")
        assert error in (outcome.error or "")


def test_a_trial_that_changes_the_code_of_the_run_is_noticed_by_the_next(project: Path) -> None:
    """A patch that edits the copies in the run's folder, as the cache of what others execute."""
    evil = "[open(f, 'w').write('x') for f in __import__('glob').glob('../../../_code/*')]"
    (project / "patches" / "evil.patch").write_text(patch_text("# end", evil, 11))
    search = start(project, warm_start=[{"lr": 0.5, "evil": True}], fill_defaults=True, trials=3).run()
    assert "has changed: restore it" in str(search.saved.outcomes[2].error)


def test_the_judge_measures_and_the_trainings_own_number_does_not_count(project: Path) -> None:
    (project / "patches" / "liar.patch").write_text(
        patch_text("# end", "print(json.dumps({'val_loss': -9})); open('out.txt', 'w').write('four')", 11)
    )
    (project / "patches" / "own.patch").write_text(
        "--- a/judge.py\n+++ b/judge.py\n@@ -1,2 +1,3 @@\n import json, sys\n+print(json.dumps({'val_loss': -99}))\n "
        + (project / "judge.py").read_text().splitlines()[1]
        + "\n"
    )
    warm = [{"lr": 0.5, "liar": True, "own": True}]
    options = {"judge": "python judge.py {folder}"}
    settings = {"warm_start": warm, "fill_defaults": True, "trials": 2, "options": options}
    search = start(project, **settings).run()
    assert search.saved.outcomes[0].status == "failed"  # there is no out.txt
    assert search.saved.outcomes[1].metrics["val_loss"] == 4
    assert search.saved.outcomes[1].metrics["files"] == 1
    assert not list(search.saved.folder.glob("_trials/*/judge"))


def test_a_full_disk_is_a_crash_of_the_trial_and_nothing_is_left(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, write = start(project, trials=2), Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "_trials" in path.parts and path.name == "model.py":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    search.run()
    assert {outcome.status for outcome in search.saved.outcomes.values()} == {"crashed"}
    assert "cannot make the copy of the project" in str(search.saved.outcomes[0].error)
    assert not list(search.saved.folder.glob("_trials/*/project"))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"command": "quick.py"}, OptionError, "--patches is for a command"),
        ({"patches": None, "protect": ["data"]}, OptionError, "--protect is for a run with patches"),
        ({"protect": ["../x"]}, PluginError, "expected an existing path below"),
        ({"protect": ["nothing"]}, PluginError, "expected an existing path"),
        ({"protect": ["train.py"]}, PluginError, "patch gain changes train.py, which --protect train.py forbids"),
        ({"command": "python {here}/train.py {lr} {seed}"}, OptionError, "write train.py, which is found in the copy"),
        ({"options": {"judge": "python judge.py {foldr}"}}, OptionError, "--judge: {foldr} has no value"),
        ({"options": {"judge": "python jugde.py"}}, PluginError, "did you mean"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    project: Path, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    if "command" in given:
        given = {**given, "command": given["command"].replace("{here}", str(project))}
    with pytest.raises(error, match=message):
        start(project, **given)
    assert not (project / "populations").exists()


@pytest.mark.timeout(60)
def test_links_in_a_circle_below_a_protected_folder_end_the_walk(project: Path) -> None:
    for name in ("a", "b", "c"):
        (project / "data" / name).symlink_to(".")
    with pytest.raises(PluginError, match=r"--protect data/?: expected a folder of at most \d+ files and folders"):
        start(project, protect=["data/"])
    assert not (project / "populations").exists()


# Patches that join.


def join(run: Run, name: str, text: str, trusted: bool = True, source: str = "person") -> None:
    patch = parse_patch(name, text)
    if trusted:
        remember_patch(run, patch.hash)
    submit_patch(run, name, text, source, {patch.gene: True})


def test_a_patch_joins_in_the_middle_and_counts_as_off_before(project: Path) -> None:
    search = start(project, trials=17)
    for _ in range(5):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, by_table(search, candidate))
    pending = search.ask()
    assert pending is not None
    assert "added" not in pending.genome
    join(search.saved, "added", patch_text("# middle", "gain += {more=0.5|0.75}", 9))
    added = search.ask()
    assert added is not None
    assert (added.genome["added"], added.genome["more"], added.operator) == (True, 0.75, "proposed by person")
    assert [name for name, _ in added.code.patches] == ["added"]  # type: ignore[union-attr]
    search.tell(pending, by_table(search, pending))
    search.tell(added, by_table(search, added))
    drive(search, evaluate=by_table)
    run = Run.open(search.saved.folder)
    assert [trial.genome["added"] for trial in run.trials()[:6]] == [False] * 6
    assert any(trial.genome["added"] for trial in run.trials()[7:])
    assert [patch.name for patch in run.patches] == ["added", "gain", "scale", "worse"]
    assert agrees(run)
    assert rows(run) == rows(search)
    frame = search.frame()
    assert frame["gene.added"].tolist()[:7] == [False] * 6 + [True]
    again = Search.resume("run", store=project / "populations", trials=18)
    assert len(drive(again, evaluate=by_table).saved.outcomes) == 18
    assert agrees(again.saved)


def test_killed_after_any_event_a_run_with_a_joined_patch_continues_identically(project: Path) -> None:
    search = start(project, trials=7)
    for _ in range(2):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, by_table(search, candidate))
    join(search.saved, "added", patch_text("# middle", "gain += 0.5", 9))
    files = {path.name: path.read_bytes() for path in (search.saved.folder / "_inbox").iterdir()}
    whole = drive(search, evaluate=by_table)
    events = (whole.saved.folder / "_journal.jsonl").read_bytes().count(b"\n")
    assert events > 15
    for count in range(6, events):
        folder = cut_copy(whole.saved, project / "populations" / f"cut-{count}", count)
        shutil.copytree(whole.saved.folder / CODE_FOLDER, folder / CODE_FOLDER)
        (folder / "_inbox").mkdir()
        for file, content in files.items():  # the kill came before the files were removed
            (folder / "_inbox" / file).write_bytes(content)
        remember_patch(Run.open(folder), parse_patch("added", patch_text("# middle", "gain += 0.5", 9)).hash)
        again = Search.resume(folder.name, store=project / "populations", trust=True, slots=1)
        drive(again, evaluate=by_table)
        assert rows(again) == rows(whole), count
    assert agrees(again.saved)


@pytest.mark.parametrize("allow", [True, False])
def test_a_patch_of_an_agent_joins_only_a_run_that_allows_it(
    project: Path, allow: bool, recwarn: pytest.WarningsRecorder
) -> None:
    search = start(project, allow_patches=allow)
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, by_table(search, candidate))
    join(search.saved, "added", patch_text("# middle", "gain += 0.5", 9), trusted=False, source="agent")
    drive(search, evaluate=by_table)
    assert ("added" in search.saved.patch_hashes) == allow
    text = "patch added is of agent, and this run was not started with --allow-patches"
    assert any(text in str(warning.message) for warning in recwarn) == (not allow)
    assert not list((search.saved.folder / "_inbox").iterdir())


def test_a_run_without_patches_can_be_started_for_those_of_agents(project: Path) -> None:
    search = start(project, patches=None, allow_patches=True)
    candidate = search.ask()
    assert candidate is not None
    assert candidate.code is not None
    search.tell(candidate, {"val_loss": 1.0})
    join(search.saved, "added", patch_text("# middle", "gain += 0.5", 9), trusted=False, source="agent")
    drive(search, evaluate=lambda search, candidate: {"val_loss": 1.0 - 0.1 * bool(candidate.genome.get("added"))})
    assert agrees(Run.open(search.saved.folder))
    assert search.best is not None
    assert search.best.genome["added"] is True


def test_a_joining_patch_that_cannot_be_used_is_refused_and_the_run_goes_on(
    project: Path, recwarn: pytest.WarningsRecorder
) -> None:
    search = start(project)
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, by_table(search, candidate))
    text = patch_text("# middle", "x = 1", 9)
    join(search.saved, "gain", text)
    join(search.saved, "broken", text.replace("-# middle", "-# muddle"))
    join(search.saved, "other", patch_text("# middle", "x = {lr=float(0,1)}", 9))
    join(search.saved, "size", text)
    drive(search, evaluate=by_table)
    told = "".join(str(warning.message) for warning in recwarn)
    assert "patch gain is there twice" in told
    assert "does not apply" in told
    assert "gene lr is one of the command" in told
    assert "gene size is one of patch" in told
    assert len(search.saved.outcomes) == 4
    assert list(search.saved.patch_hashes) == sorted(PATCHES)
    assert agrees(Run.open(search.saved.folder))


# Trust.


def test_a_patched_run_of_somebody_else_is_executed_only_if_it_is_trusted(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(project, trials=1).run()
    monkeypatch.setenv("XDG_STATE_HOME", str(project.parent / "another machine"))
    with pytest.raises(UsageError, match=r"was not begun by you here; it executes .* in a project with 3 patches"):
        Search.resume("run", store=project / "populations", trials=3)
    Search.resume("run", store=project / "populations", trials=3, trust=True, slots=1).close()


@pytest.mark.parametrize("hash_of", ["patch", "project"])
def test_code_that_changed_in_the_folder_of_a_run_is_refused(project: Path, hash_of: str) -> None:
    search = start(project, trials=1).run()
    code = search.saved.code_of({"gain": True})
    assert code is not None
    file = search.saved.folder / CODE_FOLDER / (code.project if hash_of == "project" else code.patches[0][1])
    file.write_bytes(file.read_bytes().replace(b"gain", b"loss").replace(b"train", b"drain"))
    with pytest.raises(PluginError, match="has changed: restore it from a copy"):
        Search.resume("run", store=project / "populations", trials=3)


def test_a_joined_patch_of_somebody_else_is_asked_about(project: Path) -> None:
    search = start(project)
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, by_table(search, candidate))
    memory = Path(os.environ["XDG_STATE_HOME"]) / "evo-tune" / "trusted.json"
    before = memory.read_bytes()
    join(search.saved, "added", patch_text("# middle", "gain += 0.5", 9))
    drive(search, evaluate=by_table)
    memory.write_bytes(before)  # as if somebody had added it to the journal of a run of mine
    with pytest.raises(UsageError, match="patch added joined run run, and you have not given it"):
        Search.resume("run", store=project / "populations", trials=9)
    Search.resume("run", store=project / "populations", trials=9, trust=True).close()
    Search.resume("run", store=project / "populations", trials=9).close()


def test_trials_of_another_time_than_the_default_are_named(project: Path) -> None:
    search = start(project, warm_start=[{"lr": 0.5, "gain": True, "scale": True}, {"lr": 0.25}], fill_defaults=True)
    for seconds in (10.0, 25.0, 4.0):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, Outcome("ok", by_table(search, candidate), (), seconds))
    search.close()
    text = "2 trials took more than twice or less than half the 10 s of the default: trial 1 25 s (gain, scale); "
    text += "trial 2 4 s (no patch)"
    assert unusual_time_lines(Run.open(search.saved.folder)) == [text]


@pytest.mark.slow
def test_killed_at_any_moment_a_run_with_patches_continues_identically(project: Path) -> None:
    """Also while a copy is made: each session lives a little longer than the one before."""
    evo_tune = [sys.executable, "-m", "evo_tune"]
    genes = ["--gene", "lr=float(0,1)", "--patches", "patches", "--objective", "val_loss:min", "--order", "proposal"]
    limits = ["--trials", "12", "--final-seeds", "0", "--slots", "1", "--no-report", "--quiet"]
    begin = [*evo_tune, "run", "python train.py {lr} {seed}", *genes, *limits, "--name"]
    resume = [*evo_tune, "resume", "cut", "--no-report", "--quiet"]
    began = time.monotonic()
    subprocess.run([*begin, "whole"], check=True)
    whole_seconds, killed = time.monotonic() - began, 0
    for number in range(3 * KILLS):  # later and later, because a session needs some time before its first training
        has_begun = (project / "populations" / "cut" / "_run.json").exists()
        process = subprocess.Popen(resume if has_begun else [*begin, "cut"], stderr=subprocess.DEVNULL)
        try:
            process.wait(whole_seconds * (0.3 + 0.4 * number / KILLS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += has_begun
        if killed == KILLS or process.returncode == 0:
            break
    assert killed > KILLS // 3
    subprocess.run(resume, check=True)
    whole, cut = (Run.open(project / "populations" / name) for name in ("whole", "cut"))
    assert [(row[0].genome, row[0].seed, row[2], row[3]) for row in rows(cut)] == [
        (row[0].genome, row[0].seed, row[2], row[3]) for row in rows(whole)
    ]
    assert agrees(cut)
    assert not list(cut.folder.glob("_trials/*/project"))


def test_a_copy_of_a_run_continues_with_its_patches(project: Path) -> None:
    start(project, trials=1).run()
    copy = Search.resume("run", store=project / "populations", copy_as="copy", trials=2).run()
    assert all(outcome.status == "ok" for outcome in copy.saved.outcomes.values())
    patches = patch_set_of(copy.saved)
    assert patches is not None
    assert [patch.name for patch in patches.patches] == sorted(PATCHES)


def test_a_command_without_patches_writes_what_it_wrote_before(project: Path, begin: Callable[..., Search]) -> None:
    run = begin().run().saved
    assert "patched" not in (run.folder / "_run.json").read_text()
    assert not (run.folder / CODE_FOLDER).exists()
    assert all(candidate.code is None for candidate in run.candidates)


def warm_run(project: Path, **given: Any) -> Search:
    """Return a run whose best genome has the patches `gain` and `scale`, with a final comparison."""
    best = {"lr": 0.5, "gain": True, "size": 0.25, "scale": True, "worse": False}
    return start(project, warm_start=[best], trials=3, final_seeds=2, finalists=1, **given).run()


@pytest.fixture(scope="module")
def warm_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project of a warm run, which nobody changes."""
    with pytest.MonkeyPatch.context() as patched:
        project = make_project(tmp_path_factory.mktemp("warm") / "project", patched)
        patched.setattr(slots, "open_slots", open_here)
        warm_run(project)
        yield project


@pytest.fixture
def warm(warm_project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A warm run, which nobody changes, in the working directory's `populations`."""
    monkeypatch.chdir(warm_project)
    return Run.open(warm_project / "populations" / "run")


def test_the_final_comparison_leaves_out_each_patch(warm: Run) -> None:
    saved = warm
    state, _ = comparison_result(saved)
    assert state is not None
    assert (state.chosen, state.beats) == (1, True)
    assert {effect.gene: effect.verdict for effect in state.effects} == {"gain": "real", "scale": "real"}
    assert [effect.gain for effect in state.effects] == pytest.approx([0.25, 0.5], abs=0.01)
    without = [trial for trial in read_comparison(saved) if not trial.genome["gain"] and trial.genome["scale"]]
    assert {trial.genome["size"] for trial in without} == {0.2}  # inactive, so its default
    assert [trial.outcome.metrics["val_loss"] for trial in without] == pytest.approx([0.5] * len(without), abs=0.01)
    verdicts = run_summary(saved).final_comparison.patches
    assert [(patch.gene, patch.verdict) for patch in verdicts] == [("gain", "real"), ("scale", "real")]
    assert verdicts[1].gain == pytest.approx(0.5, abs=0.01)
    line = patch_verdicts(state)[0]
    assert line.startswith("patch gain: real (gain 0.25")
    assert line.endswith(f"paired over {state.effects[0].pairs} fresh seeds)")
    rows = {row["patch"]: row for row in patches.rows(RunData(saved))}
    assert rows["gain"]["effect"].startswith("0.25")
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "gain": "real",
        "scale": "real",
        "worse": "not in the best",
    }
    assert rows["gain"]["trials with"] + rows["gain"]["trials without"] == 3
    assert rows["worse"]["effect"] == "-"
    seeds = [trial.candidate.seed for trial in without]
    assert seeds == [trial.candidate.seed for trial in read_comparison(saved) if trial.genome["gain"]][-len(seeds) :]


def test_a_longer_run_finds_the_simplest_of_its_best_genomes(project: Path) -> None:
    """Patch `worse` does nothing in this table, so a part of the trials has it on and the finalist has not."""

    def evaluate(search: Search, candidate: Candidate) -> dict[str, float]:
        return by_table(search, replace(candidate, genome={**candidate.genome, "worse": False}))

    search = drive(start(project, strategy="random", trials=30), evaluate=evaluate)
    operators = {trial.candidate.operator for trial in search.saved.trials()}
    assert {"improvement", "screening"} <= operators
    assert any(trial.genome["worse"] for trial in search.saved.trials())
    assert agrees(search.saved)
    finalist, other = comparison_as_requested(search.saved).finalists
    assert search.best is not None
    assert search.best.id in (finalist, other)
    patches = {patch.name: patch for patch in run_details(search.saved, 1).patches}
    assert all(patch.gain is not None and patch.gain_error is not None for patch in patches.values())
    assert patches["scale"].gain > 3 * patches["scale"].gain_error  # type: ignore[operator]
    genome = search.saved.candidates[finalist].genome
    assert (genome["gain"], genome["scale"], genome["worse"]) == (True, True, False)


def test_within_hours_patches_are_left_out_if_there_is_time(project: Path) -> None:
    saved = warm_run(project, hours=1.0).saved
    assert saved.planned is not None
    assert saved.planned.patches is True
    state, _ = comparison_result(Run.open(saved.folder))
    assert state is not None
    assert {effect.gene for effect in state.effects} == {"gain", "scale"}


def test_the_report_draws_the_pairs_of_patches(project: Path) -> None:
    run = drive(start(project, strategy="random", trials=14), evaluate=by_table).saved
    figure = patches.draw(RunData(run))
    assert figure is not None
    assert figure["layout"]["xaxis"]["ticktext"] == ["gain", "scale", "worse"]
    gains = figure["data"][0]["marker"]["color"]
    assert gains[4] > 0.0 > gains[8]
    part = patches.part(RunData(run))
    assert part is not None
    assert [row["verdict"] for row in part.rows if row["patch"] == "worse"] == ["not in the best"]


def test_a_comparison_of_patches_continues_after_a_kill(warm: Run, tmp_path: Path) -> None:
    saved = warm
    results = read_comparison(saved)
    whole = comparison_result(saved)
    for count in (3, len(results) - 1):
        target = tmp_path / f"cut{count}"
        shutil.copytree(saved.folder, target)
        copy_manifest(saved.folder, target)
        events = events_of(target)
        fresh = [event for event in events if event["event"] == "fresh"]
        left_out = [*fresh[count:], events[-1]]  # a killed session has no end
        write_events(target, [event for event in events if event not in left_out])
        again = Search.resume(target.name, store=target.parent, trust=True, slots=1).run().saved
        assert comparison_result(again) == whole
        assert [trial.outcome.metrics for trial in read_comparison(again)] == [t.outcome.metrics for t in results]
        assert agrees(again)


def test_without_a_patch_those_that_require_it_are_off(project: Path) -> None:
    text = patch_text("gain = 0.0", "gain = {size=float(0.1,0.3)}", 8, head="# requires: a_first\n")
    (project / "patches" / "gain.patch").write_text(text)
    (project / "patches" / "a_first.patch").write_text(patch_text("import os", "import os  # first", 2))
    best = {"lr": 0.5, "a_first": True, "gain": True, "size": 0.25, "scale": True, "worse": False}
    saved = start(project, warm_start=[best], trials=2).run().saved
    assert patches_on(saved, 1) == ("a_first", "gain", "scale")
    without = genome_without(saved, 1, "a_first")
    assert (without["a_first"], without["gain"], without["scale"], without["size"]) == (False, False, True, 0.2)
    assert genome_without(saved, 1, "gain")["a_first"] is True


def test_the_winning_project_is_exported(warm: Run, warm_project: Path, tmp_path: Path) -> None:
    before, target = contents(warm_project), tmp_path / "out"
    target.mkdir()
    done = CliRunner().invoke(cli, ["export", warm.name, str(target), "--trial", "1"], catch_exceptions=False)
    assert contents(warm_project) == before
    text = (target / "train.py").read_text()
    assert "gain = 0.25\n" in text
    assert "scale = 0.5\n" in text
    assert "train it there: python train.py 0.5 " in done.output


def test_a_project_is_exported_without_a_command_that_is_too_long(
    warm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger may have written the run."""
    monkeypatch.setattr("evo_tune.cli.shared.MOST_OPTIONS", 0)
    words = ["export", warm.name, str(tmp_path / "out"), "--trial", "1"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert f"wrote {tmp_path / 'out'}" in done.output
    assert "train it there" not in done.output


def test_an_export_of_changed_code_is_refused(warm: Run, tmp_path: Path) -> None:
    shutil.copytree(warm.folder, tmp_path / "copy")
    (tmp_path / "copy" / CODE_FOLDER / warm.patches[0].hash).write_text("something else")
    words = ["export", "copy", str(tmp_path / "out"), "--trial", "1", "--store", str(tmp_path)]
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, PluginError)
    assert "has changed" in str(done.exception)
    assert not (tmp_path / "out").exists()
