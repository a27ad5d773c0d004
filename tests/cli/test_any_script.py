"""`evo-tune run "python train.py --lr {lr}"`: any script, from the first trial to a stranger's run of it."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from evo_tune import load
from evo_tune.report.recommendation import lacks_seed
from evo_tune.store.manifest import read_manifest
from evo_tune.store.run import Run
from evo_tune.store.table import read_comparison
from tests.cli.conftest import Typed
from tests.journals import line_of

TRAIN = """
import json, os, sys
lr, depth = float(sys.argv[1]), int(sys.argv[2])
if depth == 8:
    raise ValueError("too deep")
for step in range(1, 9):
    print(json.dumps({"step": step, "val_loss": (lr - 0.003) ** 2 * 1e5 + depth / 9 + 1 / step}))
    open("steps", "a").write("x")
"""

COMMAND = f"{sys.executable} train.py {{lr}} {{depth}}"
GENES = ("--gene", "lr=log(1e-4,1e-2)", "--gene", "depth=2|4|8", "--objective", "val_loss:min")
PRUNED = (
    r"pruning began with trial \d+, after \d+ full trainings; \d+ pruned, which saved [\d.]+ full trainings \(\d+% of"
)
BRIEF = ("--quiet", "--no-report", "--final-seeds", "0")


@pytest.fixture(autouse=True)
def script(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    (folder / "train.py").write_text(TRAIN)
    return folder / "train.py"


@pytest.mark.slow
def test_a_run_of_a_script_prunes_fails_resumes_and_verifies(typed: Typed, folder: Path, script: Path) -> None:
    flags = ("--strategy", "random", "--prune", "--progress", "step/8", "--name", "one", *BRIEF)
    begun = typed("run", COMMAND, *GENES, *flags, "--trials", "14")
    assert begun.code == 0, begun
    run = load(folder / "populations" / "one")
    statuses = [trial.outcome.status for trial in run.trials]
    assert set(statuses) == {"ok", "failed", "pruned"}
    assert {trial.outcome.error for trial in run.trials if trial.outcome.status == "failed"} == {
        "ValueError: too deep (exit code 1)"
    }
    assert [place for place, _ in run.trials[0].outcome.curve] == [step / 8 for step in range(1, 9)]
    assert all(len(trial.outcome.curve) < 8 for trial in run.trials if trial.outcome.status == "pruned")
    for command in ("status", "show"):
        assert re.search(PRUNED, typed(command, "one").out), command
    assert json.loads(typed("status", "one", "--format", "json").out)["saved_by_pruning"] > 0.4
    typed("report", "one", "-o", "report.html")
    assert "began with trial" in (folder / "report.html").read_text()
    continued = typed("resume", "one", *BRIEF[1:], "--trials", "16")
    assert continued.code == 0
    assert re.search(PRUNED, continued.out)
    assert typed("verify", "one").code == 0
    best = run.best.genome
    printed = typed("best", "one").out
    assert f"train it: {sys.executable} train.py {best['lr']} {best['depth']}" in printed

    script.write_text(TRAIN + "# other")
    changed = typed("resume", "one", *BRIEF, "--trials", "18")
    assert (changed.code, f"'{script}'" in changed.err, "one of which has changed" in changed.err) == (2, True, True)
    assert typed("resume", "one", *BRIEF, "--trials", "18", "--accept-changes").code == 0


@pytest.mark.slow
def test_a_strangers_command_is_executed_when_the_user_says_so(typed: Typed, folder: Path) -> None:
    assert typed("run", COMMAND, *GENES, *BRIEF, "--trials", "1", "--name", "one").code == 0
    store = folder / "populations"

    def copy_of_a_stranger(name: str) -> None:
        shutil.copytree(store / "one", store / name)
        manifest = json.loads((store / name / "_run.json").read_text())
        (store / name / "_run.json").write_text(json.dumps({**manifest, "identity": f"{len(name):032x}"}))

    copy_of_a_stranger("strange")
    (folder / "steps").unlink()

    def resume(trials: int, *flags: str) -> tuple[int, bool]:
        done = typed("resume", "strange", *BRIEF, "--trials", str(trials), *flags)
        refused = f"was not begun by you here; it executes the command '{COMMAND}': look at it" in done.err
        return done.code, refused

    assert resume(2) == (2, True)
    assert "look at it, then give --trust" in typed("verify", "strange", "--retrain", "1").err
    assert not (folder / "steps").exists()
    assert resume(2, "--trust") == (0, False)
    assert resume(3) == (0, False)  # said once
    copy_of_a_stranger("other")
    assert typed("resume", "other", *BRIEF, "--trials", "2").code == 2  # of that run alone
    manifest = json.loads((store / "strange" / "_run.json").read_text())
    manifest["evaluator"] += " ; touch pwned"
    (store / "strange" / "_run.json").write_text(json.dumps(manifest))
    assert resume(4)[0] == 2  # and of that command alone


def test_a_command_that_came_back_changed_is_asked_about(typed: Typed, folder: Path, script: Path) -> None:
    """The run's identity is in its manifest, which all who were sent the run have."""
    assert typed("run", COMMAND, *GENES, *BRIEF, "--trials", "1", "--name", "one").code == 0
    path = folder / "populations" / "one" / "_run.json"
    before = path.read_text()
    path.write_text(before.replace("train.py", f"train.py --a-long-word-{'x' * 400} ; touch pwned"))
    for words in (["resume", "one", *BRIEF, "--trials", "2", "--accept-changes"], ["verify", "one", "--retrain", "1"]):
        done = typed(*words)
        assert done.code == 2, done
        assert "run one was begun by you here and has changed since (_run.json); it executes" in done.err
        assert "touch pwned" in done.err, "the whole command is shown"
    path.write_text(before)
    assert typed("resume", "one", *BRIEF, "--trials", "2").code == 0
    script.write_text("import os; open('pwned', 'w')\n" + TRAIN)
    done = typed("resume", "one", *BRIEF, "--trials", "3")
    assert (done.code, f"'{script}'" in done.err, "one of which has changed" in done.err) == (2, True, True)
    assert not (folder / "pwned").exists()


def test_a_command_without_quotes_is_told_to_have_them(typed: Typed, script: Path) -> None:
    done = typed("run", "python3", "train.py", "--lr", "{lr}", "--objective", "v:min")
    assert (done.code, "put the command of a script in quotes" in done.err) == (2, True), done
    done = typed("run", "train.py", "--gene", "lr=log(1e-4,1e-2)", "--objective", "v:min")
    assert (done.code, "'python train.py --lr {lr}'" in done.err) == (2, True), done


def test_a_word_that_was_put_into_a_gene_is_asked_about(typed: Typed, folder: Path) -> None:
    """What the journal says of wider genes reaches the command line, too."""
    (folder / "loss.py").write_text("print('{\"v\": 1}')")
    (folder / "other.py").write_text("open('pwned', 'w')")
    words = ("--gene", "script=loss.py|none.py", "--objective", "v:min", *BRIEF, "--trials", "1", "--name", "one")
    assert typed("run", f"{sys.executable} {{script}}", *words).code == 0
    run = folder / "populations" / "one"
    gene = {**json.loads((run / "_run.json").read_text())["space"]["script"]}
    gene["values"] += ["other.py"]
    event = {"event": "widened", "genes": {"script": gene}, "reason": "", "time": 1.0}
    with (run / "_journal.jsonl").open("a") as journal:
        journal.write(line_of(event))
    done = typed("resume", "one", *BRIEF, "--trials", "9")
    assert (done.code, "has changed since (a value of a gene in _journal.jsonl); it executes" in done.err) == (
        2,
        True,
    ), done
    assert not (folder / "pwned").exists()


def test_a_command_that_others_may_write_is_asked_about(typed: Typed, script: Path) -> None:
    assert typed("run", COMMAND, *GENES, *BRIEF, "--trials", "1", "--name", "one").code == 0
    script.chmod(0o666)
    done = typed("resume", "one", *BRIEF, "--trials", "2")
    assert (done.code, f"others may write {script}" in done.err) == (2, True)
    assert typed("resume", "one", *BRIEF, "--trials", "2", "--accept-changes").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objective", "v:min"], "{lr} in the command is no gene: give it as --gene 'lr=…'"),
        (["--gene", "lr=1|2"], "train names no objective: give --objective METRIC:min"),
        (["--gene", "lr", "--objective", "v:min"], "--gene lr: expected its values"),
        (["--gene", "x=1", "--gene", "lr=1|2", "--objective", "v:min"], "--gene x: the command has no {x}"),
        (["--gene", "lr=1|2", "--objective", "v:min", "--prune"], "--prune: where a printed line lies"),
        (
            ["--gene", "lr=1|2", "--objective", "v:min", "--fidelity", "1/3,1"],
            "--fidelity: the command has no {budget}",
        ),
        (["--gene", "lr=1|2", "--objective", "v:min", "--metric", "w"], "returns no metric 'v': expected one of w"),
        (["--gene", "lr=1|2", "--objective", "v:min", "-o", "steps=1"], "a command has no option 'steps'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(typed: Typed, folder: Path, words: list[str], said: str) -> None:
    done = typed("run", f"{sys.executable} train.py {{lr}}", *words)
    assert (done.code, said in done.err, len(done.err.strip().splitlines())) == (2, True, 1), done
    assert not (folder / "populations").exists()
    assert not (folder / "steps").exists()


SAYS = """
import sys
for step in (1, 2):
    print(f"step {step}: val loss {float(sys.argv[1]) + 1 / step:.4f}")
"""


def test_a_script_that_prints_text_needs_no_metric(typed: Typed, script: Path) -> None:
    script.write_text(SAYS)
    words = ("--gene", "lr=float(0,1)", "--objective", "val_loss:min", "--trials", "4", "--name", "one")
    done = typed("run", f"{sys.executable} train.py {{lr}}", *words, "--final-seeds", "0", "--no-report")
    assert done.code == 0, done
    trial = load("populations/one").trials[0]
    assert trial.outcome.metrics == {"val_loss": pytest.approx(trial.candidate.genome["lr"] + 0.5, abs=1e-4)}
    more = typed("resume", "one", "--trials", "5", "--no-report")
    assert more.code == 0
    assert "{seed}" not in more.err, "what was said at the start is not said again"


def test_a_script_that_ignores_its_genes_is_noticed(typed: Typed, script: Path) -> None:
    script.write_text("print('val loss 2.5')")
    words = "--gene lr=float(0,1) --objective val_loss:min --trials 3 --final-seeds 0 --no-report"
    done = typed("run", f"{sys.executable} train.py {{lr}}", *words.split())
    assert (done.code, "all 3 genomes have the same val_loss: check that" in done.out) == (0, True), done


def test_hours_too_short_for_a_training_ask_for_more(typed: Typed, script: Path) -> None:
    script.write_text("import time\ntime.sleep(60)\n")
    words = ("--gene", "lr=float(0,1)", "--objective", "loss:min", "--hours", "0.0004", "--name", "one")
    done = typed("run", f"{sys.executable} train.py {{lr}}", *words)
    assert "no evaluation finished" in done.out
    assert "next: evo-tune resume one --hours 0.0008" in done.out
    assert "Nothing was left to do" not in done.err


def test_a_command_without_a_seed_is_compared_in_one_training_each(typed: Typed, folder: Path, script: Path) -> None:
    script.write_text("import sys; print('val_loss', (float(sys.argv[1]) - 0.2) ** 2)")
    words = ("--gene", "lr=float(0,1)", "--objective", "val_loss:min", "--strategy", "random", "--trials", "4")
    done = typed("run", f"{sys.executable} train.py {{lr}}", *words, "--finalists", "3", "--name", "one")
    assert "beats the default (the script ignores seeds, so one training of each was compared" in done.out, done
    run = folder / "populations" / "one"
    assert " beats the default in one training: the script ignores seeds" in (run / "_report.html").read_text()
    assert len(read_comparison(Run.open(run))) == 4
    manifest = read_manifest(run)
    assert lacks_seed(manifest)
    seeded = {"template": "c.yaml\nseed: { seed }\n"}
    assert not lacks_seed(replace(manifest, options={**manifest.options, **seeded}))
    assert not lacks_seed(replace(manifest, evaluator=f"{manifest.evaluator} {{seed}}"))
    assert not lacks_seed(replace(manifest, evaluator="bundled:language_model"))


def test_a_run_whose_first_trials_fail_alike_stops_and_names_the_remedy(typed: Typed, script: Path) -> None:
    script.write_text(SAYS.replace("val loss", "error"))
    words = ("--gene", "lr=float(0,1)", "--objective", "val_loss:min", "--final-seeds", "0")
    command = f"{sys.executable} train.py {{lr}}"
    done = typed("run", command, *words, "--name", "one")
    assert (done.code, len(load("populations/one").trials)) == (1, 3), done
    assert "Error: the first 3 trials failed alike: the script printed no val_loss, but 'error " in done.err
    assert (
        "add --metric val_loss=error if that is it, or correct --objective; correct this and start a new run"
        in done.err
    )
    assert "Ctrl-C" not in done.out, "nobody pressed it"
    assert "3 of 3 trials failed: the script printed no val_loss" in typed("show", "one").out
    logs = [Path("populations", "one", "_trials", f"{id:06d}", "log.txt") for id in range(3)]
    for log in logs:  # here the slots have no worker processes, which write it
        log.write_text("some output\n")
    assert re.search(rf"; its output: ({'|'.join(map(str, logs))})\)", typed("show", "one").out)
    assert typed("run", command, *words, "--name", "two", "--metric", "val_loss=error", "--trials", "2").code == 0

    few = typed("run", command, *words, "--name", "few", "--trials", "2")
    assert few.code == 1
    assert few.out.count("trial 0 failed: the script printed no val_loss, but 'error ") == 1, few
    assert "2 of 2 trials failed: the script printed no val_loss" in few.out
    assert "evo-tune show few" in few.out
    assert not any(word in few.out for word in ("resume", "best few")), few
    many = typed("run", command, *words, "--name", "many", "--trials", "5", "--give-up-after", "0")
    assert "5 of 5 trials failed" in many.out, many


def test_a_script_that_does_not_exist_is_an_error_before_anything_runs(typed: Typed, folder: Path) -> None:
    done = typed("run", f"{sys.executable} tran.py {{lr}}", "--gene", "lr=1|2", "--objective", "v:min")
    assert (done.code, "there is no script 'tran.py' (did you mean train.py?)" in done.err) == (2, True), done
    assert not (folder / "populations").exists()
    other = f"{shutil.which('sh')} -o errexit ./run.sh {{lr}}"  # the value of a flag is no script
    for command in (
        *(f"{sys.executable} {words}" for words in ("-c 'print({lr})'", "-m tran {lr}", "{script}")),
        other,
    ):
        genes = ("--gene", "lr=1|2") if "{lr}" in command else ("--gene", "script=1|2")
        done = typed("run", command, *genes, "--objective", "v:min", *BRIEF, "--trials", "1")
        assert "there is no script" not in done.err


def test_a_program_that_is_not_there_and_flags_without_a_command(typed: Typed) -> None:
    assert "'pyton3' is neither an evaluator nor a program" in typed("run", "pyton3 x {lr}", "--gene", "lr=1").err
    assert "--metric is for a command" in typed("run", "quick.py", "--metric", "loss").err


def test_rungs_go_on_from_the_folder_of_the_trial_before(typed: Typed, folder: Path) -> None:
    (folder / "rungs.py").write_text(
        "import os, sys\n"
        "x, last, here, before = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]\n"
        "done = int(open(before[0] + '/step').read()) if before else 0\n"
        "open(here + '/step', 'w').write(str(last))\n"
        "for step in range(done + 1, last + 1): print(f'step {step} loss {x + 1 / step}')\n"
    )
    command = f"{sys.executable} rungs.py {{x}} {{budget*9}} {{folder}} {{resume}}"
    metrics = ("--metric", "step", "--metric", "loss", "--progress", "step/9")
    words = ("--gene", "x=float(0,1)", "--objective", "loss:min", "--fidelity", "1/3,1", "--trials", "6", "--name", "r")
    assert typed("run", command, *words, *metrics, *BRIEF).code == 0
    curves = {
        trial.candidate.budget: [round(9 * place) for place, _ in trial.outcome.curve]
        for trial in load(folder / "populations" / "r").trials
    }
    assert curves == {1 / 3: [1, 2, 3], 1.0: [4, 5, 6, 7, 8, 9]}
    assert typed("verify", "r").code == 0


def test_a_command_is_evaluated_by_hand(typed: Typed) -> None:
    done = typed("evaluate", COMMAND, "-g", "lr=0.003", "-g", "depth=2")
    assert re.search(r"val_loss +0.3472", done.out), done


@pytest.mark.slow
def test_a_timeout_kills_all_that_the_script_started(process: Typed, folder: Path) -> None:
    (folder / "hangs.py").write_text(
        "import os, subprocess, sys, time\n"
        "wait = [sys.executable, '-c', 'import time; time.sleep(100)']\n"
        "pids = [subprocess.Popen(wait, start_new_session=alone).pid for alone in (False, True)]\n"
        "open('pids', 'w').write(' '.join(map(str, [*pids, os.getpid()])))\n"
        "time.sleep(100)\n"
    )
    words = "--gene x=1|2 --objective v:min --trials 1 --slots 1 --timeout 1 --name t"
    assert process("run", f"{sys.executable} hangs.py {{x}}", *words.split(), *BRIEF).code == 1
    assert load(folder / "populations" / "t").trials[0].outcome.status == "timeout"
    pids = [int(text) for text in (folder / "pids").read_text().split()]
    left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert left == ([] if os.path.isdir("/proc") else left[:1])


def test_the_command_is_data_in_the_manifest(typed: Typed, folder: Path) -> None:
    assert typed("run", COMMAND, *GENES, *BRIEF, "--trials", "1", "--name", "one", "--shell").code == 0
    manifest = read_manifest(folder / "populations" / "one")
    assert manifest.evaluator == f"command:{COMMAND}"
    off = dict.fromkeys(("metric", "progress", "judge", "metrics_file", "template", "set_values"), "")
    assert manifest.options == {**off, "shell": True}


DOCS = Path(__file__).parents[2] / "docs" / "scripts.md"


@pytest.mark.slow
def test_what_the_page_says_works(typed: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (folder / "train.py").write_text("print('val_loss', 2.0)\nprint('{\"val_loss\": 1.5}')\n")
    command = re.findall(r"^```sh\n(evo-tune .+)$", DOCS.read_text(), re.M)
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S)
    assert (len(command), len(blocks)) == (4, 2)
    assert typed(*shlex.split(command[0])[1:-1], "1", *BRIEF).code == 0
    (folder / "conf.yaml").write_text("model:\n  depth: 2\n")
    (folder / "train.py").write_text(
        "import re, sys; print('val_loss', re.findall('[0-9]+', open(sys.argv[2]).read())[0])"
    )
    done = typed(*shlex.split(command[1])[1:], *BRIEF, "--trials", "2", "--name", "config")
    assert done.code == 0, done
    assert all(
        trial.outcome.metrics["val_loss"] == trial.genome["depth"] for trial in load("populations/config").trials
    )
    (folder / "train.py").write_text(
        "import sys\nopen(sys.argv[-1] + '/metrics.jsonl', 'w').write('{\"val_loss\": ' + sys.argv[2] + '}')\n"
    )
    done = typed(*shlex.split(command[2])[1:], *BRIEF, "--trials", "2", "--name", "file")
    assert done.code == 0, done
    assert all(trial.outcome.metrics == {"val_loss": trial.genome["lr"]} for trial in load("populations/file").trials)
    (folder / "train.py").write_text("LR = 0.1\nDATA = 'x'\nprint('{\"val_loss\": %f}' % LR)\n")
    done = typed(*shlex.split(command[3])[1:], *BRIEF, "--trials", "2", "--name", "constants")
    assert done.code == 0, done
    trials = load("populations/constants").trials
    assert all(trial.outcome.metrics["val_loss"] == pytest.approx(trial.genome["LR"], abs=1e-6) for trial in trials)
    for number, block in enumerate(blocks):
        (folder / f"block{number}.py").write_text(block)
    assert typed("evaluate", "block1.py").code == 0
    search = runpy.run_path("block0.py")["search"]
    with search:
        assert search.ask().genome == {"lr": pytest.approx(1e-3), "depth": 4}


WRITES = """
import os, signal, sys
if not os.path.exists("attempted"):
    open(sys.argv[1] + "/metrics.json", "w").write('{"val_loss": 0.5}')
    open("attempted", "w").close()
    os.kill(os.getppid(), signal.SIGKILL)  # the worker of a process of its own
"""


def test_a_retry_does_not_count_the_metrics_file_of_the_killed_attempt(process: Typed, folder: Path) -> None:
    (folder / "write.py").write_text(WRITES)
    flags = ("--gene", "lr=float(0,1)", "--objective", "val_loss:min", "--metrics-file", "{folder}/metrics.json")
    command = f"{sys.executable} write.py {{folder}} {{lr}}"
    process("run", command, *flags, "--trials", "1", "--retries", "1", "--slots", "1", "--name", "one", *BRIEF)
    assert (folder / "attempted").exists()
    trial = load(folder / "populations" / "one").trials[0]
    assert (trial.outcome.status, trial.outcome.metrics) == ("failed", {})
    assert "there is no {folder}/metrics.json" in trial.outcome.error


def test_a_metrics_file_is_for_a_command_and_in_the_folder_of_its_trial(typed: Typed) -> None:
    refused = typed("run", "language_model", "--metrics-file", "{folder}/m.json")
    assert refused.code == 2
    assert "--metrics-file is for a command" in refused.err
    refused = typed("run", COMMAND, *GENES, "--metrics-file", "m.json")
    assert refused.code == 2
    assert "expected a path in the trial's own folder, such as '{folder}/metrics.json'" in refused.err
