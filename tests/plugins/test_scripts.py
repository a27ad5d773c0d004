"""Other people's scripts: what of a genome reaches them, what is read of their output, and that nothing is left."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from evo_tune import Context, Minimize, Script
from evo_tune.errors import OptionError
from evo_tune.genome.trial import Candidate
from evo_tune.plugins.code import local_sources
from evo_tune.plugins.command import command_evaluator, command_of, is_command
from evo_tune.plugins.context import Pruned
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.plugins.scripts.script import (
    CommandTemplate,
    OutputReader,
    find_by_name,
    find_by_patterns,
    likely_numbers,
    parse_patterns,
    parse_progress,
)

NASTY = ["a b", "$(touch pwned)", "`id`", "; rm -rf x", "'", '"', "-x", "{lr}", "\\", "é\u202e", "a\nb", "*", "&&", ""]

TELLS = "import json,os,sys; print(json.dumps(sys.argv[1:])); print(json.dumps(dict(os.environ))); print('{\"v\": 1}')"


def context(folder: Path, **fields: Any) -> Context:
    return Context(**{"folder": folder / "trial", "objectives": [Minimize("v")], **fields})


def python(text: str, *words: str) -> str:
    """Return a command that has Python execute a text; braces in it are its own."""
    return shlex.join([sys.executable, "-c", text.replace("{", "{{").replace("}", "}}"), *words])


def told(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment that a script of TELLS had."""
    lines = capsys.readouterr().out.splitlines()
    return json.loads(lines[0]), json.loads(lines[1])


@pytest.mark.parametrize("shell", [False, True])
def test_no_value_can_inject(tmp_path: Path, capsys: pytest.CaptureFixture[str], shell: bool, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"g{number}" for number in range(len(NASTY))]
    words = " ".join(f"--{name}={{{name}}}" for name in names)
    genome = dict(zip(names, NASTY, strict=True))
    Script(f"{python(TELLS)} {words}", shell=shell).run(genome, context(tmp_path))
    assert told(capsys)[0] == [f"--{name}={value}" for name, value in genome.items()]
    assert list(tmp_path.iterdir()) == []


def test_a_script_is_given_seed_threads_budget_folder_and_sees_its_gpu_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    text = (
        python(TELLS) + " {seed} {device} {threads} {budget} {budget*100} {folder} {resume} {resume?go:begin} {x?--x}"
    )
    here = context(tmp_path, seed=7, threads=2, budget=1 / 3, device="cuda:0")
    Script(text).run({"x": False}, here)
    words, environment = told(capsys)
    # An argument that is left empty is no argument.
    assert words == ["7", "cuda:0", "2", str(1 / 3), "34", str(tmp_path / "trial"), "begin"]
    assert (tmp_path / "trial").is_dir()
    wanted = {"SEED": "7", "DEVICE": "cuda:0", "THREADS": "2", "BUDGET": str(1 / 3), "RESUME": ""}
    assert {name: environment[f"EVO_TUNE_{name}"] for name in wanted} == wanted
    assert (environment["OMP_NUM_THREADS"], environment["CUDA_VISIBLE_DEVICES"]) == ("2", "3")


def test_a_command_in_a_shell_has_pipes_and_variables(tmp_path: Path) -> None:
    text = 'A=2; echo "v = ${{A}}{x}" | sed s/2/4/'
    assert Script(text, ["v"], shell=True).run({"x": 1}, context(tmp_path)) == {"v": 41.0}


def test_a_command_is_shown_as_it_would_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all placeholders filled: it runs as it is."""
    trial = Candidate(7, 0, 5, 0, {"lr": 1e-5, "n": "a b"}, "random")
    text = "p --lr {lr} {n} -s {seed} --steps {budget*40} {threads} {device} {resume?-r} {{x}}"
    assert command_of(f"command:{text}", trial, {}, "cuda:0", 2) == "p --lr 1e-05 'a b' -s 5 --steps 40 2 cuda:0 '{x}'"
    assert command_of("bundled:language_model", trial, {}, "cpu", 1) == ""
    monkeypatch.chdir(tmp_path)
    made = command_of("command:touch {folder}/{n}", trial, {}, "cpu", 1)
    subprocess.run(made, shell=True, check=True)
    assert (tmp_path / "trial-7" / "a b").is_file()


# What does not go together is said in a line, before anything runs.


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("p --lr {lr}", r"--gene depth: the command has no \{depth\}: put it where .* --depth \{depth\}"),
        ("p {lr} {dept}", r"has no \{depth\} \(did you mean dept\?\)"),
        ("p {lr} {depth} {sed}", r"\{sed\} in the command is no gene \(did you mean seed\?\): .*\{resume\}, or write"),
        ("p '{lr} {depth}", r"cannot be split into words: No closing quotation"),
        ("  ", "expected a program and its arguments"),
    ],
)
def test_placeholders_and_genes_match(command: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        CommandTemplate(command).check(["lr", "depth"])


def test_a_gene_is_not_named_as_what_a_trial_is_given() -> None:
    with pytest.raises(OptionError, match=r"--gene seed: \{seed\} is what each trial is given; expected another name"):
        CommandTemplate("p {seed}").check(["seed"])


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("v=(", "missing \\)"), ("v=(a)(b)", "2 groups"), ("=x", "expected NAME"), ("v=", "expected NAME")],
)
def test_a_pattern_that_is_none_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_patterns([pattern])


@pytest.mark.parametrize("text", ["0", "-3", "x/", "/3", "x/0", "nan", "x/inf"])
def test_progress_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"--progress .*: expected how many points"):
        parse_progress(text)


def test_a_name_a_path_and_a_command_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "my task.py"
    file.touch()
    assert not any(map(is_command, ["language_model", "bundled:x", "./a.py", "no-such-program x", str(file)]))
    assert all(map(is_command, ["p {x}", "./p{x}", "sh x.sh", "command:p"]))


# What is read.


def read(lines: list[str], patterns: list[str], progress: str = "", **fields: Any) -> OutputReader:
    reading = OutputReader(parse_patterns(patterns), parse_progress(progress), context(Path(), **fields))
    for line in lines:
        reading.read_line(line)
    reading.report_waiting_points()
    return reading


def test_of_each_metric_the_last_value_counts() -> None:
    lines = [
        "hello",
        '{"v": 3, "name": "x", "ok": true}',
        "{broken}",
        '{"v": 2, "fraction": 0.5}',
        '{"w": NaN}',
        "{}",
        "bye",
    ]
    reading = read(lines, [])
    assert (reading.metrics["v"], reading.metrics["fraction"]) == (2.0, 0.5)
    assert math.isnan(reading.metrics["w"])
    assert set(reading.metrics) == {"v", "w", "fraction"}


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("step 3: train loss 2.5, val loss 1.25e-1", "v=val loss ([0-9.e-]+)"),
        ("step 3: train loss 2.5, val loss 1.25e-1", "v=val loss"),
        ("{'v': 0.125, 'w': 3}", "v"),
        ("v=.125", "v"),
        ("v: +1.25E-01 (best)", "v"),
        ("| v | 0.125 |", "v"),
        ("prev=7 v=1 v 0.125", "v"),
    ],
)
def test_patterns_find_numbers_as_people_print_them(line: str, pattern: str) -> None:
    assert read([line, "nothing here, nor 7"], [pattern]).metrics == {"v": 0.125}


@pytest.mark.parametrize(
    ("name", "lines", "value"),
    [
        ("val_loss", ["step 10: val loss 3.5", "step 20: val loss 2.1555"], 2.1555),
        ("val_loss", ["iter 3 loss 9, Val-Loss: nan"], math.nan),
        ("val_loss", [" 5%|# | 4/9 [00:01<00:02, 3.1it/s, val_loss=3]", "9/9 [00:02, 1.0s/it, val_loss=2]"], 2.0),
        ("loss", ["train loss 3", "loss: 2.5", "train loss 1"], 2.5),
        ("loss", ["the val loss 2.5"], 2.5),
        ("accuracy", ["{'accuracy': '0.81'}", "accuracy = 9e-1"], 0.9),
        ("v", ["v 5", '{"v": 1}', "v 7"], 1.0),
    ],
)
def test_without_patterns_an_objective_is_found_by_its_name(name: str, lines: list[str], value: float) -> None:
    reading = read(lines, [], objectives=[Minimize(name)])
    assert reading.metrics == {name: pytest.approx(value, nan_ok=True)}


def test_numbers_found_by_their_names_make_a_curve() -> None:
    reading = read(["v is off", "step 10: v 3", "step 20: v 2"], [], "step/20")
    assert reading._context.curve == [(0.5, {"step": 10.0, "v": 3.0}), (1.0, {"step": 20.0, "v": 2.0})]
    assert [point["v"] for _, point in read(["best v 9", "v 3", "v 2"], [])._context.curve] == [3.0, 2.0]
    assert [point["v"] for _, point in read(["v 3", '{"v": 2}', '{"v": 1}'], [])._context.curve] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("metric", "first"), [("val_loss", "final error"), ("test_score", "accuracy"), ("epok", "epoch")]
)
def test_a_number_of_the_same_kind_is_suggested_first(metric: str, first: str) -> None:
    lines = ["final error: 0.1 (accuracy 0.9)", "final error: 0.1, accuracy 0.9, epoch 3"]
    assert likely_numbers(lines, metric)[0][1] == first


@pytest.mark.parametrize("number", ["0.25", "1e-3", "nan", "-inf", "Infinity"])
def test_a_number_that_is_not_finite_is_a_number_between_labels_too(number: str) -> None:
    """Else a diverged training prints another kind of line, and counts with its last finite value."""
    (finite,) = find_by_name("epoch 1 train loss 0.5 val loss 0.3", "val_loss")
    (other,) = find_by_name(f"epoch 2 train loss {number} val loss {number}", "val_loss")
    assert (other.words_before, other.pattern) == (finite.words_before, finite.pattern)
    assert repr(other.value) == repr(float(number))
    patterns = parse_patterns([f"val_loss={finite.pattern}"])
    values = find_by_patterns(f"train loss {number} val loss {number}", patterns)
    assert repr(values) == repr({"val_loss": float(number)})


@pytest.mark.parametrize(
    ("printed", "said", "value"),
    [
        (
            ["validation loss 2.1"],
            "printed no v, but 'validation loss 2.1': add --metric 'v=validation loss' if that",
            2.1,
        ),
        (["epoch 3", "acc@5: 0.5 (top)"], "but 'acc@5: 0.5', 'epoch 3': add --metric 'v=acc@\\d+' if that is it", 0.5),
        (["train v 2, test v 3"], "several numbers named v, 'train v 2', 'test v 3': add --metric 'v=train v' to", 2.0),
        (["[train] v 2", "[test] v 3"], "'v 2', 'v 3': add --metric 'v=train\\] v' to choose one", 2.0),
    ],
)
def test_the_error_of_a_missing_objective_names_the_flag_that_reads_it(
    tmp_path: Path, printed: list[str], said: str, value: float
) -> None:
    command = python(f"print({chr(10).join(printed)!r})")
    with pytest.raises(Ended) as caught:
        Script(command).run({}, context(tmp_path))
    assert said in str(caught.value)
    flag = re.findall(r"--metric '(.*?)'", str(caught.value))
    assert Script(command, flag).run({}, context(tmp_path))["v"] == value


@pytest.mark.parametrize(
    ("progress", "extra", "places"),
    [
        ("4", "", [0.25, 0.5, 0.75]),
        ("step/8", '"step": {}', [0.125, 0.25, 0.375]),
        ("step/most", '"most": 6, "step": {}', [1 / 6, 2 / 6, 3 / 6]),
        ("fraction", '"fraction": 0.{}', [0.1, 0.2, 0.3]),
        ("", "", [1 / 3, 2 / 3, 1.0]),  # not known before the end
    ],
)
def test_repeated_lines_are_the_curve(progress: str, extra: str, places: list[float]) -> None:
    lines = [f'{{"v": {3 - i}{", " + extra.format(i) if extra else ""}}}' for i in (1, 2, 3)]
    reading = read(lines, [], progress)
    assert [place for place, _ in reading._context.curve] == pytest.approx(places)
    assert [point["v"] for _, point in reading._context.curve] == [2.0, 1.0, 0.0]


def test_other_metrics_stand_with_the_next_point_and_none_before_the_first_step() -> None:
    lines = ["step 0 loss 9 v 9", "step 1 loss 3", "step 2 loss 2 v 5"]
    reading = read(lines, ["step", "loss", "v"], "step/4")
    assert reading._context.curve == [(0.5, {"step": 2.0, "loss": 2.0, "v": 5.0})]


@pytest.mark.parametrize("progress", ["", "50000"])
def test_a_talkative_script_leaves_a_bounded_curve(progress: str) -> None:
    curve = read([f"v={i}" for i in range(1, 50001)], ["v"], progress)._context.curve
    assert 400 < len(curve) <= 1001
    assert [place for place, _ in curve] == sorted({place for place, _ in curve})
    assert curve[-1][0] == pytest.approx(1.0, abs=0.01)
    assert curve[-1][1]["v"] == pytest.approx(50000, rel=0.01)


# How it ends.


def alive(folder: Path) -> list[int]:
    """Return the processes that wrote their numbers into a file and are still there."""
    pids = [int(text) for text in (folder / "pids").read_text().split()]
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


LEAVES = """
import os, subprocess, sys, time
waits = [sys.executable, "-c", "import time; time.sleep(100)"]
pids = [subprocess.Popen(waits).pid, subprocess.Popen(waits, start_new_session=True).pid, os.getpid()]
open("pids", "w").write(" ".join(map(str, pids)))
print("v=5")
"""


@pytest.mark.parametrize("waits", [True, False])
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    monkeypatch.chdir(tmp_path)
    script, began = Script(python(LEAVES + "time.sleep(100)" * waits), ["v"], "2"), time.monotonic()
    if waits:
        with pytest.raises(Pruned):
            script.run({}, context(tmp_path, stop_if=[(0.25, "v", 4.0)]))
    else:
        assert script.run({}, context(tmp_path)) == {"v": 5.0}
    assert time.monotonic() - began < 20
    end = time.monotonic() + 5  # a busy machine takes its time to bury who was killed
    while alive(tmp_path) and time.monotonic() < end:
        time.sleep(0.01)
    assert alive(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("raise ValueError('too deep')", "failed", "ValueError: too deep (exit code 1)"),
        ("import sys; print('no luck'); sys.exit(3)", "failed", "no luck (exit code 3)"),
        ("import sys; sys.exit(3)", "failed", "it printed nothing (exit code 3)"),
        (
            "import sys\nfor line in ("
            "'Traceback (most recent call last):', '  File', 'KeyError: 1', 'launcher failed'):\n"
            "  print(line, file=sys.stderr)\nsys.exit(1)",
            "failed",
            "KeyError: 1 (exit code 1)",
        ),
        (
            "import sys\nfor line in ("
            "'To append to your config use +m=1', \"Key 'm' is not in struct\", '    full_key: m', '', "
            "'Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.'):\n"
            "  print(line, file=sys.stderr)\nsys.exit(1)",
            "failed",
            "Key 'm' is not in struct (exit code 1)",
        ),
        ("raise MemoryError", "out_of_memory", "MemoryError (exit code 1)"),
        (
            "raise RuntimeError('CUDA out of memory.')",
            "out_of_memory",
            "RuntimeError: CUDA out of memory. (exit code 1)",
        ),
        (
            "import os; print('hm', flush=True); os.kill(os.getpid(), 9)",
            "crashed",
            "killed by SIGKILL; its last line: hm",
        ),
        ("print('done')", "failed", "the script printed no v: expected a line that is a JSON object"),
        ("print('x\\x1b[2J')\nraise SystemExit('\\x1b[31m')", "failed", "\\x1b[31m (exit code 1)"),
    ],
)
def test_a_bad_end_is_a_status_and_a_line(tmp_path: Path, text: str, status: str, said: str) -> None:
    with pytest.raises(Ended) as caught:
        Script(python(text)).run({}, context(tmp_path))
    assert (caught.value.status, said in str(caught.value)) == (status, True), str(caught.value)
    assert str(caught.value).isprintable()


def test_what_cannot_be_started_is_a_failed_trial(tmp_path: Path) -> None:
    with pytest.raises(Ended, match=r"cannot start '.*nowhere': No such file or directory; check the command"):
        Script(f"{tmp_path}/{{x}}").run({"x": "nowhere"}, context(tmp_path))


def test_output_of_any_kind_is_read(tmp_path: Path) -> None:
    text = r"import sys; sys.stdout.buffer.write(b'\xff\xfe' * 70000 + b'\n' + b'v=3\rv=2\r'); sys.stderr.write('w=1')"
    assert Script(python(text), ["v", "w"]).run({}, context(tmp_path)) == {"v": 2.0, "w": 1.0}


def test_a_worker_for_commands_loads_no_torch() -> None:
    assert not any(b"torch" in source.read_bytes() for source in local_sources(command_evaluator("true {x}").path))
