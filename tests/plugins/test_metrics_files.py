"""Metrics that a script writes into files: their formats, their growth, and files that are broken or hostile."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune import Context, Minimize, Script
from evo_tune.errors import OptionError, UsageError
from evo_tune.plugins.command import command_evaluator
from evo_tune.plugins.context import Pruned
from evo_tune.plugins.scripts import metrics_file
from evo_tune.plugins.scripts.metrics_file import MetricsFile, other_files_hint, parse_metrics_file
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.plugins.scripts.records import Row, text_rows
from tests.extras import need

SPARSE = 10 << 30
EVENTS = "events.out.tfevents.1"


def run(
    folder: Path, code: str, file: str = "{folder}/metrics.json", **fields: Any
) -> tuple[dict[str, float], Context]:
    """Run Python code whose variable FOLDER is the trial's folder; return the metrics and the context."""
    options = {name: fields.pop(name) for name in ("metrics", "progress") if name in fields}
    context = Context(**{"folder": folder / "trial", "objectives": [Minimize("val_loss")], **fields})
    code = f"import json, os, sys, time\nFOLDER = sys.argv[1]\n{code}"
    command = shlex.join([sys.executable, "-c", code.replace("{", "{{").replace("}", "}}"), "{folder}"])
    return Script(command, metrics_file=file, **options).run({}, context), context


def write(text: str) -> str:
    """Return code that writes a text as metrics.json."""
    return f"open(FOLDER + '/metrics.json', 'w').write({text!r})"


def rows(text: str, is_complete: bool = True) -> list[Row]:
    return list(text_rows(text, is_complete))


# ---------------------------------------------------------------- formats of text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"val_loss": 2, "ok": true, "name": "x"}', [{"val_loss": 2.0}]),
        ('{"eval": {"loss": 2.5, "by": {"class": 1}}}', [{"eval.loss": 2.5, "eval.by.class": 1.0}]),
        ('[{"a": 1}, {"a": 2}, 3]', [{"a": 1.0}, {"a": 2.0}]),
        ('{"loss": [3, 2], "val": [4.5]}', [{"loss": 3.0, "val": 4.5}, {"loss": 2.0}]),
        ('{"log_history": [{"a": 1}, {"a": 2}], "best": 1}', [{"a": 1.0}, {"a": 2.0}, {"best": 1.0}]),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1.0}, {"a": 2.0}]),
        ('{"a": 1}\n{"a": \n{"a": 2}\n', [{"a": 1.0}, {"a": 2.0}]),
        ('{"a": Infinity}\n{"a": -Infinity}', [{"a": math.inf}, {"a": -math.inf}]),
        ('{"a": 1' + "0" * 5000 + "}", [{"a": math.inf}]),
        ("step,loss\n1,2.5\n2,1.5\n", [{"step": 1.0, "loss": 2.5}, {"step": 2.0, "loss": 1.5}]),
        ("step,loss,acc\n1,2.5\n2,1.5,0.5\n3,1,2,3\n4\n", [{"step": 2.0, "loss": 1.5, "acc": 0.5}]),
        ("# step\tloss\n1\tinf\n", [{"step": 1.0, "loss": math.inf}]),
        ("step;loss\r\n1;2.5\r\n", [{"step": 1.0, "loss": 2.5}]),
        ('step,"val, loss"\n1,2.5\n', [{"step": 1.0, "val, loss": 2.5}]),
        ("step,loss\n1,\n2,x\n", [{"step": 1.0}, {"step": 2.0}]),
        ("", []),
        ("\n \n", []),
        ("step,loss", []),
    ],
)
def test_rows_of_text(text: str, expected: list[Row]) -> None:
    assert rows(text) == expected


def test_an_unfinished_last_line_waits_for_its_end() -> None:
    assert rows("step,loss\n1,2.5\n2,1", is_complete=False) == [{"step": 1.0, "loss": 2.5}]
    assert rows('{"a": 1}\n{"a": 2', is_complete=False) == [{"a": 1.0}]
    assert rows('{"a": 1}\n{"a": 2}', is_complete=True) == [{"a": 1.0}, {"a": 2.0}]
    assert rows('{"a": 1', is_complete=False) == []
    with pytest.raises(ValueError, match="it is no JSON"):
        rows('{"a": 1', is_complete=True)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '[{"a": 1}, ' + "[" * 100_000])
def test_deep_nesting_is_an_error_of_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is (nested too deeply|no JSON)"):
        rows(text)


@given(st.text(max_size=60) | st.text(alphabet='{}[]",:\n1e.NaIfty \0', max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text_gives_rows_or_a_value_error(text: str, is_complete: bool) -> None:
    with contextlib.suppress(ValueError):
        assert all(type(value) is float for row in rows(text, is_complete) for value in row.values())


def test_columns_of_other_lengths_take_no_quadratic_time() -> None:
    columns: dict[str, list[int]] = {"loss": [1] * 50_000, **{f"k{number}": [1] for number in range(20_000)}}
    began = time.process_time()
    assert sum(map(len, rows(json.dumps(columns)))) == 70_000
    assert time.process_time() - began < 3.0


# ---------------------------------------------------------------- TensorBoard


def event_file(path: Path, **scalars: list[float]) -> Path:
    """Write an event file whose steps are 1, 2, …"""
    need("tensorboard")
    from tensorboard.summary import Writer

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(str(path.parent / "part"))
    for tag, values in scalars.items():
        for step, value in enumerate(values, 1):
            writer.add_scalar(tag, value, step=step)
    writer.close()
    [written] = (path.parent / "part").iterdir()
    return written.rename(path)


def test_event_files_of_torch_are_read(tmp_path: Path) -> None:
    need("tensorboard")
    code = """
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter(FOLDER + '/logs')
writer.add_scalar('val/loss', 0.5, 10)
writer.add_scalar('val/loss', 0.25, 20, new_style=True)
writer.add_histogram('weights', __import__('torch').zeros(3), 20)
writer.add_text('text', '1.5', 20)
writer.close()
"""
    metrics, context = run(tmp_path, code, "{folder}/logs", progress="step/20")
    assert metrics == {"step": 20.0, "val_loss": 0.25}
    assert context.curve == [(0.5, {"val_loss": 0.5, "step": 10.0}), (1.0, {"val_loss": 0.25, "step": 20.0})]


def test_a_growing_event_file_is_read_from_its_last_complete_record(tmp_path: Path) -> None:
    content, taken = event_file(tmp_path / "all" / EVENTS, loss=[4.0, 2.0, 1.0]).read_bytes(), list[Row]()
    file = MetricsFile("{folder}/logs", tmp_path, {}, ["loss"], [], taken.append)
    (tmp_path / "logs").mkdir()
    for length in (0, 10, len(content) - 5, len(content)):
        (tmp_path / "logs" / EVENTS).write_bytes(content[:length])
        file.read_all()
    assert taken == [{"step": 1.0, "loss": 4.0}, {"step": 2.0, "loss": 2.0}, {"step": 3.0, "loss": 1.0}]


@pytest.mark.parametrize("code", [f"truncate({SPARSE})", "write(os.urandom(5000))"])
def test_a_damaged_event_file_has_no_metric(tmp_path: Path, code: str) -> None:
    need("tensorboard")
    with pytest.raises(Ended, match="has no numbers"):
        run(tmp_path, f"open(FOLDER + '/{EVENTS}', 'wb').{code}", "{folder}")


@pytest.mark.parametrize(("length", "content"), [(20, b"\xff" * 20), (1 << 62, b"")])
def test_a_hostile_record_fails_in_one_line(tmp_path: Path, length: int, content: bytes) -> None:
    need("tensorboard")
    from tensorboard.summary.writer.record_writer import masked_crc32c

    head = struct.pack("<Q", length)
    record = head + struct.pack("<I", masked_crc32c(head)) + content + struct.pack("<I", masked_crc32c(content))
    with pytest.raises(Ended, match=r"TensorBoard cannot read it|has no numbers") as error:
        run(tmp_path, f"open(FOLDER + '/{EVENTS}', 'wb').write({record!r})", "{folder}")
    assert "\n" not in str(error.value)


def test_what_takes_the_place_of_an_event_file_is_checked_again(tmp_path: Path) -> None:
    taken: list[Row] = []
    (tmp_path / "trial").mkdir()
    file = MetricsFile("{folder}", tmp_path / "trial", {}, ["loss"], [], taken.append)
    path = event_file(tmp_path / "trial" / EVENTS, loss=[4.0])
    other = event_file(tmp_path / "other" / EVENTS, loss=[4.0, 1.0])
    file.read_all()
    for replace in (lambda: os.symlink(other, path), lambda: os.mkfifo(path)):
        path.unlink()
        replace()
        file.read_all()
    assert taken == [{"step": 1.0, "loss": 4.0}]


def test_too_many_event_files_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "MOST_EVENT_FILES", 2)
    taken: list[Row] = []
    file = MetricsFile("{folder}", tmp_path, {}, [], [], taken.append)
    for number in range(3):
        event_file(tmp_path / str(number) / EVENTS, loss=[4.0])
    with pytest.raises(Ended, match="more than 2 event files"):
        file.read_all()
    assert len(taken) == 2


def test_without_tensorboard_the_error_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["tensorboard", *(name for name in sys.modules if name.startswith("tensorboard."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"--metrics-file .* pip install 'evo-tune\[tensorboard\]'"):
        run(tmp_path, f"open(FOLDER + '/{EVENTS}', 'w').write('x')", "{folder}")


# ---------------------------------------------------------------- while the script runs


@pytest.mark.parametrize(
    ("name", "line"),
    [("m.jsonl", "json.dumps({'step': step, 'val_loss': 9 - step}) + '\\n'"), ("m.csv", "f'{step},{9 - step}\\n'")],
)
def test_a_growing_file_is_a_curve_and_prunes(tmp_path: Path, name: str, line: str) -> None:
    code = f"""
with open(FOLDER + '/{name}', 'w') as file:
    if {name!r} == 'm.csv':
        file.write('step,val_loss\\n')
    for step in range(1, 9):
        file.write({line})
        file.flush()
        time.sleep(PAUSE)
open(FOLDER + '/end', 'w')
"""
    metrics, context = run(tmp_path, code.replace("PAUSE", "0"), f"{{folder}}/{name}", progress="step/8")
    assert metrics == {"step": 8.0, "val_loss": 1.0}
    assert [place for place, _ in context.curve] == [step / 8 for step in range(1, 9)]
    (tmp_path / "trial" / "end").unlink()
    slow = code.replace("PAUSE", "0.3")
    began = time.monotonic()
    with pytest.raises(Pruned):
        run(tmp_path, slow, f"{{folder}}/{name}", progress="step/8", stop_if=[(0.25, "val_loss", 5.5)])
    assert not (tmp_path / "trial" / "end").exists()
    assert time.monotonic() - began < 2.2


def test_rows_that_were_read_are_not_read_again(tmp_path: Path) -> None:
    taken: list[Row] = []
    (tmp_path / "m.csv").touch()
    file = MetricsFile("{folder}/m.csv", tmp_path, {}, ["loss"], [], taken.append)
    texts = ["step,loss\n1,3\n", "step,loss\n1,3\n2,2\n", "step,acc,loss\n1,,3\n2,,2\n3,1,1\n", "step,loss\n9,9\n"]
    for text in texts:  # the third has one more column, as Lightning writes the file anew
        (tmp_path / "m.csv").write_text(text)
        file.read_all()
    assert [row["step"] for row in taken] == [1.0, 2.0, 3.0, 9.0]


def test_a_file_that_is_replaced_while_it_is_read_gives_whole_rows(tmp_path: Path) -> None:
    code = """
for step in range(1, 200):
    with open(FOLDER + '/metrics.json', 'w') as file:
        json.dump([{'step': s, 'val_loss': s} for s in range(1, step + 1)], file)
    time.sleep(0.005)
"""
    metrics, context = run(tmp_path, code, progress="step/199")
    assert metrics == {"step": 199.0, "val_loss": 199.0}
    assert all(point["val_loss"] == round(place * 199) for place, point in context.curve)


def test_a_file_from_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "metrics.json").write_text('{"val_loss": 0.125}')
    with pytest.raises(Ended, match="there is no"):
        run(tmp_path, "pass")
    assert run(tmp_path, write('{"val_loss": 0.25}'))[0] == {"val_loss": 0.25}
    (tmp_path / "trial" / EVENTS).touch()
    with pytest.raises(Ended, match="there is no"):
        run(tmp_path, "pass", "{folder}")


# ---------------------------------------------------------------- broken and hostile files


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: os.symlink("/etc/passwd", path), "it is a link"),
        (lambda path: os.symlink("metrics.json", path), "it is a link"),
        (lambda path: path.mkdir(), "no regular file|there is no"),
        (lambda path: (path.touch(), os.truncate(path, SPARSE)), f"it has {SPARSE} bytes: expected at most"),
        (lambda path: path.write_text("[" * 100_000), "nested too deeply|no JSON"),
        (lambda path: path.write_text('{"val_loss": 0.5'), "it is no JSON"),
        (lambda path: path.write_bytes(os.urandom(5000)), "has no numbers|it is no|has no val_loss"),
        (lambda path: path.write_bytes(b"\0" * 5000), "has no numbers"),
        (
            lambda path: path.write_text('{"loss": {"eval": 1}, "b": 2}'),
            r"'loss.eval', 'b': add --metric val_loss=loss.eval",
        ),
        (
            lambda path: path.write_text('{"Loss/train": 1, "Loss/eval": 2, "a": 3}'),
            "has no val_loss, but 'Loss/eval', 'Loss/train', 'a': add --metric val_loss=Loss/eval",
        ),
        (lambda path: path.write_text("val_loss\n" + "9" * 200_000), "no CSV|has no numbers"),
        (lambda path: path.write_text(json.dumps({"\x1b[2Jval": 1})), r"x1b\[2Jval"),
        (lambda path: None, r"there is no \{folder\}/metrics.json: tell the script to write there, such as --out"),
    ],
)
def test_a_file_without_the_metric_fails_in_one_line(tmp_path: Path, make: Callable[[Path], None], text: str) -> None:
    (tmp_path / "trial").mkdir()
    make(tmp_path / "trial" / "metrics.json")
    began = time.monotonic()
    # It is touched, because only what the script has changed counts.
    with pytest.raises(Ended, match=text) as error:
        run(tmp_path, "p = FOLDER + '/metrics.json'\nif os.path.lexists(p): os.utime(p, (9, 9), follow_symlinks=False)")
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert time.monotonic() - began < 5


def test_no_link_is_followed_out_of_the_folder(tmp_path: Path) -> None:
    event_file(tmp_path / "other" / EVENTS, val_loss=[1.0])
    (tmp_path / "other" / "metrics.json").write_text('{"val_loss": 1}')
    for file in ("{folder}/logs/metrics.json", "{folder}"):
        with pytest.raises(Ended, match="there is no"):
            run(tmp_path, f"os.symlink({str(tmp_path / 'other')!r}, FOLDER + '/logs')", file)
        os.unlink(tmp_path / "trial" / "logs")


def test_many_files_do_not_take_forever(tmp_path: Path) -> None:
    code = "[open(f'{FOLDER}/{n}', 'w').close() for n in range(3000)]\nos.makedirs(FOLDER + '/a' * 100)"
    with pytest.raises(Ended, match="there is no"):
        run(tmp_path, code, "{folder}")


# ---------------------------------------------------------------- names and places


@pytest.mark.parametrize(
    ("text", "names"), [("{folder}", ()), ("{folder}/", ()), ("{folder}/a/b.json", ("a", "b.json"))]
)
def test_a_path_is_in_the_folder(text: str, names: tuple[str, ...]) -> None:
    assert parse_metrics_file(text) == names


@pytest.mark.parametrize("text", ["", "m.json", "/tmp/m.json", "{folder}/../m.json", "{folder}m.json", "{folder}/a\0b"])
def test_a_path_outside_the_folder_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"expected a path in the trial's own folder"):
        parse_metrics_file(text)


def test_keys_of_metrics() -> None:
    assert Script("x", ["a=b(c", "d"], metrics_file="{folder}").keys == {"a": "b(c", "d": ""}
    for texts in (["=a"], ["a="], [""], ["a=b", "a=c"]):
        with pytest.raises(OptionError, match=r"NAME=KEY|is given twice"):
            Script("x", texts, metrics_file="{folder}")


def test_a_key_is_found_by_its_words_or_as_it_was_given(tmp_path: Path) -> None:
    metrics: list[Row] = []
    for content in ({"Val/Loss": 3, "other": 1}, {"Loss/val": 3}, {"loss.VAL": 3}, {"loss_val": 1, "val_loss": 3}):
        file = MetricsFile("{folder}/m.json", tmp_path, {}, ["val_loss"], [], metrics.append)
        (tmp_path / "m.json").write_text(json.dumps(content))
        file.read_all()
        (tmp_path / "m.json").unlink()
    assert [row["val_loss"] for row in metrics] == [3.0] * 4
    assert metrics[0]["other"] == 1.0
    assert run(tmp_path, write('{"val_loss": 3, "x(": 1}'), metrics=["val_loss=x("])[0] == {"val_loss": 1.0}


def test_a_metric_in_two_folders_must_be_chosen(tmp_path: Path) -> None:
    for name, value in (("train", 1.0), ("validation", 2.0)):
        event_file(tmp_path / "files" / name / EVENTS, epoch_loss=[value])
    code = f"import os, shutil; shutil.copytree({str(tmp_path / 'files')!r}, FOLDER + '/part')"
    code += "; os.rename(FOLDER + '/part', FOLDER + '/logs')"  # at once: the first file that is read is kept
    objectives = [Minimize("epoch_loss")]
    with pytest.raises(Ended, match=r"train and validation: add --metric epoch_loss=validation/epoch_loss"):
        run(tmp_path, code, "{folder}/logs", objectives=objectives)
    (tmp_path / "trial").rename(tmp_path / "old")
    chosen = ["epoch_loss=validation/epoch_loss"]
    assert run(tmp_path, code, "{folder}/logs", objectives=objectives, metrics=chosen)[0]["epoch_loss"] == 2.0


def test_what_is_printed_does_not_count_beside_a_file(tmp_path: Path) -> None:
    assert run(tmp_path, "print('val_loss 9')\n" + write('{"val_loss": 0.5}'))[0] == {"val_loss": 0.5}


@pytest.mark.parametrize(
    ("printed", "advice"),
    [
        ("", r"the script wrote \{folder\}/m.csv: add --metrics-file '\{folder\}/m.csv'"),
        ("max_epochs=1", r"printed no val_loss; the script wrote"),
        ("loss=1", r"--metric val_loss=loss .*; the script"),
    ],
)
def test_a_script_without_the_metric_is_told_of_its_files(tmp_path: Path, printed: str, advice: str) -> None:
    code = f"import sys; print({printed!r}); open(sys.argv[1] + '/m.csv', 'w').write('val_loss')"
    script = Script(shlex.join([sys.executable, "-c", code, "{folder}"]))
    with pytest.raises(Ended, match=advice):
        script.run({}, Context(folder=tmp_path / "trial", objectives=[Minimize("val_loss")]))
    (tmp_path / "trial" / "m.csv").unlink()
    (tmp_path / "trial" / "a").mkdir()
    (tmp_path / "trial" / "a" / EVENTS).touch()
    assert "--metrics-file '{folder}/a'" in other_files_hint(tmp_path / "trial")


def test_a_folder_without_event_files_names_the_setting_that_may_write_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(Ended, match=r"no event file of TensorBoard .*--set 'trainer.logger.init_args.save_dir="):
        run(tmp_path, "", file="{folder}")


def test_a_judge_and_a_metrics_file_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="give one of the two"):
        command_evaluator("python x {lr}", None, {"judge": "python judge.py", "metrics_file": "{folder}"})
