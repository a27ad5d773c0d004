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
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune import Context, Minimize, Script
from evo_tune.errors import OptionError
from evo_tune.plugins.command import command_evaluator
from evo_tune.plugins.context import Pruned
from evo_tune.plugins.scripts.metrics_file import MetricsFile, other_files_hint, parse_metrics_file
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.plugins.scripts.records import (
    BLOCK,
    HEAD,
    LARGEST_RECORD,
    Row,
    _masked_crc32c,
    tensorboard_records,
    tensorboard_rows,
    text_rows,
    wandb_records,
    wandb_rows,
)
from tests.extras import need

SPARSE = 10 << 30


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


# ---------------------------------------------------------------------------------------------------------
# Formats


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"val_loss": 2, "ok": true, "name": "x"}', [{"val_loss": 2.0}]),
        ('{"eval": {"loss": 2.5, "by": {"class": 1}}}', [{"eval.loss": 2.5, "eval.by.class": 1.0}]),
        ('[{"a": 1}, {"a": 2}, 3]', [{"a": 1.0}, {"a": 2.0}]),
        ('{"loss": [3, 2], "val": [4.5]}', [{"loss": 3.0, "val": 4.5}, {"loss": 2.0}]),
        ('{"log_history": [{"a": 1}, {"a": 2}], "best": 1}', [{"a": 1.0}, {"a": 2.0}, {"best": 1.0}]),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1.0}, {"a": 2.0}]),
        ("step,loss\n1,2.5\n2,1.5\n", [{"step": 1.0, "loss": 2.5}, {"step": 2.0, "loss": 1.5}]),
        ("# step\tloss\n1\t2.5\n", [{"step": 1.0, "loss": 2.5}]),
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


def test_numbers_that_are_not_finite_are_read() -> None:
    assert [str(row["a"]) for row in rows('{"a": NaN}\n{"a": Infinity}\n{"a": -Infinity}')] == ["nan", "inf", "-inf"]
    assert [str(row["a"]) for row in rows("s,a\n0,nan\n0,inf\n")] == ["nan", "inf"]
    assert rows('{"a": 1' + "0" * 5000 + "}") == [{"a": math.inf}]


def test_an_unfinished_last_line_waits_for_its_end() -> None:
    assert rows("step,loss\n1,2.5\n2,1", is_complete=False) == [{"step": 1.0, "loss": 2.5}]
    assert rows('{"a": 1}\n{"a": 2', is_complete=False) == [{"a": 1.0}]
    assert rows('{"a": 1}\n{"a": 2}', is_complete=True) == [{"a": 1.0}, {"a": 2.0}]
    assert rows('{"a": 1', is_complete=False) == []
    with pytest.raises(ValueError, match="it is no JSON"):
        rows('{"a": 1', is_complete=True)


def test_lines_of_another_length_than_the_header_do_not_count() -> None:
    assert rows("step,loss,acc\n1,2.5\n2,1.5,0.5\n3,1,2,3\n4\n") == [{"step": 2.0, "loss": 1.5, "acc": 0.5}]


def test_damaged_lines_of_json_lines_do_not_count() -> None:
    assert rows('{"a": 1}\n{"a": \n{"a": 2}\n') == [{"a": 1.0}, {"a": 2.0}]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '[{"a": 1}, ' + "[" * 100_000])
def test_deep_nesting_is_an_error_of_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is (nested too deeply|no JSON)"):
        rows(text)


@given(st.text(max_size=60) | st.text(alphabet='{}[]",:\n1e.NaIfty \0', max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text_gives_rows_or_a_value_error(text: str, is_complete: bool) -> None:
    with contextlib.suppress(ValueError):
        assert all(type(value) is float for row in rows(text, is_complete) for value in row.values())


# ---------------------------------------------------------------------------------------------------------
# Records


def field(number: int, content: bytes) -> bytes:
    """Return a field of a protobuf message with bytes."""
    return varint(number * 8 + 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def event(step: int, **scalars: float) -> bytes:
    """Return a frame with an event of TensorBoard."""
    summaries = b"".join(
        field(1, field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)) for tag, value in scalars.items()
    )
    return frame(b"\x09" + struct.pack("<d", 1.0) + b"\x10" + varint(step) + field(5, summaries))


def frame(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", _masked_crc32c(length)) + record + bytes(4)


def wandb_record(step: int, **values: float) -> bytes:
    """Return a `Record` of the history."""
    items = {"_step": step, **values}
    return field(
        2, b"".join(field(1, field(2, k.encode()) + field(16, json.dumps(v).encode())) for k, v in items.items())
    )


def wandb_file(*records: bytes) -> bytes:
    """Return a file of W&B, whose records are split at the ends of its blocks."""
    data = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    for record in records:
        begun = False
        while True:
            if BLOCK - len(data) % BLOCK < HEAD:
                data += bytes(BLOCK - len(data) % BLOCK)
            part, record = (record[: (room := BLOCK - len(data) % BLOCK - HEAD)], record[room:])
            kind = bytes([(3 if record else 4) if begun else (2 if record else 1)])
            data += struct.pack("<IH", zlib.crc32(part, zlib.crc32(kind)), len(part)) + kind + part
            begun = True
            if not record:
                break
    return data


EVENTS = event(1, **{"val/loss": 2.0}) + event(2, **{"val/loss": 1.5, "acc": 0.5})
WANDB = wandb_file(wandb_record(1, loss=2.0), field(2, field(1, b"x" * 70_000)), wandb_record(300, loss=math.nan))


def event_rows(data: bytes, path: Path) -> list[Row]:
    path.write_bytes(data)
    with path.open("rb") as file:
        return [row for record, _ in tensorboard_records(file, 0) for row in tensorboard_rows(record)]


def history_rows(data: bytes) -> list[Row]:
    return [row for record, _ in wandb_records(BytesIO(data), 0) for row in wandb_rows(record)]


def test_records_give_their_scalars(tmp_path: Path) -> None:
    assert event_rows(EVENTS, tmp_path / "e") == [
        {"step": 1.0, "val/loss": 2.0},
        {"step": 2.0, "val/loss": 1.5, "acc": 0.5},
    ]
    first, last = history_rows(WANDB)
    assert first == {"_step": 1.0, "loss": 2.0}
    assert last["_step"] == 300.0
    assert math.isnan(last["loss"])


def test_a_record_that_is_cut_off_waits_for_its_end(tmp_path: Path) -> None:
    complete, path = event_rows(EVENTS, tmp_path / "e"), tmp_path / "e"
    for length in range(len(EVENTS)):
        assert event_rows(EVENTS[:length], path) == complete[: 1 if length >= len(event(1, **{"val/loss": 2.0})) else 0]
    for length in range(0, len(WANDB), 97):
        assert len(history_rows(WANDB[:length])) <= 1


@pytest.mark.parametrize("place", [0, 3, 9])
def test_damaged_records_are_an_error(tmp_path: Path, place: int) -> None:
    for data, read in ((EVENTS, lambda data: event_rows(data, tmp_path / "e")), (WANDB, history_rows)):
        with pytest.raises(ValueError, match=r"is no (record|file) of"):
            read(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_a_huge_record_is_left_out(tmp_path: Path) -> None:
    picture = frame(field(5, bytes(LARGEST_RECORD + 1)))
    assert len(event_rows(EVENTS + picture + EVENTS, tmp_path / "e")) == 4
    history = wandb_file(field(2, bytes(3 * LARGEST_RECORD)), wandb_record(1, loss=1.0))
    assert history_rows(history) == [{"_step": 1.0, "loss": 1.0}]


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_record_gives_rows(record: bytes) -> None:
    for read in (tensorboard_rows, wandb_rows):
        for row in read(record):
            assert all(isinstance(name, str) and type(value) is float for name, value in row.items())
    assert isinstance(list(tensorboard_rows(field(5, field(1, record)))), list)
    assert isinstance(list(wandb_rows(field(2, field(1, record)))), list)


def test_what_tensorboard_writes_is_read(tmp_path: Path) -> None:
    need("tensorboard")
    code = """
from tensorboard.summary import Writer
writer = Writer(FOLDER + '/logs')
for step in (10, 20):
    writer.add_scalar('val/loss', 10 / step, step=step)
writer.close()
"""
    metrics, context = run(tmp_path, code, "{folder}", progress="step/20")
    assert metrics == {"step": 20.0, "val_loss": 0.5}
    assert [place for place, _ in context.curve] == [0.5, 1.0]


def test_what_torch_writes_for_tensorboard_is_read(tmp_path: Path) -> None:
    need("tensorboard")
    code = """
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter(FOLDER + '/logs')
writer.add_scalar('val/loss', 0.5, 10)
writer.add_scalar('val/loss', 0.25, 20, new_style=True)
writer.add_histogram('weights', __import__('torch').zeros(3), 20)
writer.close()
"""
    metrics, context = run(tmp_path, code, "{folder}/logs", progress="step/20")
    assert metrics == {"step": 20.0, "val_loss": 0.25}
    assert [point["val_loss"] for _, point in context.curve] == [0.5, 0.25]


def test_what_wandb_writes_offline_is_read(tmp_path: Path) -> None:
    need("wandb")
    code = """
import wandb
run = wandb.init(mode='offline', dir=FOLDER)
for step in range(3):
    run.log({'val/loss': 1 / (step + 1), 'text': 'x'})
run.finish()
"""
    metrics, context = run(tmp_path, code, "{folder}", progress="_step/2")
    assert metrics["val_loss"] == pytest.approx(1 / 3)
    assert [place for place, _ in context.curve] == [0.5, 1.0]


# ---------------------------------------------------------------------------------------------------------
# While the script runs


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


def test_a_json_file_that_is_written_anew_is_a_curve(tmp_path: Path) -> None:
    code = """
for step in range(1, 4):
    with open(FOLDER + '/part', 'w') as file:
        json.dump({'step': step, 'val_loss': 1 / step}, file)
    os.replace(FOLDER + '/part', FOLDER + '/metrics.json')
    time.sleep(0.6)
"""
    metrics, context = run(tmp_path, code, progress="step/3")
    assert metrics == {"step": 3.0, "val_loss": pytest.approx(1 / 3)}
    assert [place for place, _ in context.curve] == [pytest.approx(step / 3) for step in range(1, 4)]


def test_rows_that_were_read_are_not_read_again(tmp_path: Path) -> None:
    taken: list[Row] = []
    (tmp_path / "m.csv").touch()
    file = MetricsFile("{folder}/m.csv", tmp_path, {}, ["loss"], [], taken.append)
    texts = ["step,loss\n1,3\n", "step,loss\n1,3\n2,2\n", "step,acc,loss\n1,,3\n2,,2\n3,1,1\n", "step,loss\n9,9\n"]
    for text in texts:  # the third has one more column, as Lightning writes the file anew
        (tmp_path / "m.csv").write_text(text)
        file.read_all()
    assert [row["step"] for row in taken] == [1.0, 2.0, 3.0, 9.0]


def test_a_file_from_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    old = tmp_path / "trial" / "metrics.json"
    old.write_text('{"val_loss": 0.125}')
    with pytest.raises(Ended, match="there is no"):
        run(tmp_path, "pass")
    assert run(tmp_path, write('{"val_loss": 0.25}'))[0] == {"val_loss": 0.25}
    events = tmp_path / "trial" / "events.out.tfevents.1"
    events.write_bytes(event(1, val_loss=0.125))
    with pytest.raises(Ended, match="there is no"):
        run(tmp_path, "pass", "{folder}")


# ---------------------------------------------------------------------------------------------------------
# Broken and hostile files


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


@pytest.mark.parametrize("name", ["events.out.tfevents.1", "run-a.wandb"])
def test_a_sparse_file_of_records_ends_at_once(tmp_path: Path, name: str) -> None:
    code = f"open(FOLDER + '/{name}', 'w').truncate({SPARSE})"
    with pytest.raises(Ended, match=r"is no (record|file) of"):
        run(tmp_path, code, "{folder}")


def test_no_link_is_followed_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.json").write_text('{"val_loss": 1}')
    (tmp_path / "other" / "events.out.tfevents.1").write_bytes(event(1, val_loss=1.0))
    link = f"os.symlink({str(tmp_path / 'other')!r}, FOLDER + '/logs')"
    with pytest.raises(Ended, match="there is no"):
        run(tmp_path, link, "{folder}/logs/metrics.json")
    os.unlink(tmp_path / "trial" / "logs")
    with pytest.raises(Ended, match="there is no"):
        run(tmp_path, link, "{folder}")


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


def test_many_files_do_not_take_forever(tmp_path: Path) -> None:
    code = "[open(f'{FOLDER}/{n}', 'w').close() for n in range(3000)]\nos.makedirs(FOLDER + '/a' * 100)"
    with pytest.raises(Ended, match="there is no"):
        run(tmp_path, code, "{folder}")


# ---------------------------------------------------------------------------------------------------------
# Names and places


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
    for key in ("Val/Loss", "Loss/val", "loss.VAL"):
        assert run(tmp_path, write(json.dumps({key: 3, "other": 1})))[0] == {"val_loss": 3.0, "other": 1.0}
    assert run(tmp_path, write('{"loss_val": 1, "val_loss": 3}'))[0]["val_loss"] == 3.0
    other = run(tmp_path, write('{"val_loss": 3, "x(": 1}'), metrics=["val_loss=x("])[0]
    assert other == {"val_loss": 1.0}


def test_a_metric_in_two_folders_must_be_chosen(tmp_path: Path) -> None:
    for name, value in (("train", 1.0), ("validation", 2.0)):
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / "events.out.tfevents.1").write_bytes(event(5, epoch_loss=value))
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
    [("max_epochs=1", r"printed no val_loss; the script wrote"), ("loss=1", r"--metric val_loss=loss .*; the script")],
)
def test_numbers_of_other_names_are_no_advice_beside_a_file(tmp_path: Path, printed: str, advice: str) -> None:
    code = f"import sys; print({printed!r}); open(sys.argv[1] + '/m.csv', 'w').write('val_loss')"
    script = Script(shlex.join([sys.executable, "-c", code, "{folder}"]))
    with pytest.raises(Ended, match=advice):
        script.run({}, Context(folder=tmp_path / "trial", objectives=[Minimize("val_loss")]))


def test_a_script_that_prints_nothing_is_told_of_its_files(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1] + '/m.csv', 'w').write('val_loss')"
    script = Script(shlex.join([sys.executable, "-c", code, "{folder}"]))
    with pytest.raises(Ended, match=r"the script wrote \{folder\}/m.csv: add --metrics-file '\{folder\}/m.csv'"):
        script.run({}, Context(folder=tmp_path / "trial", objectives=[Minimize("val_loss")]))
    (tmp_path / "trial" / "m.csv").unlink()
    (tmp_path / "trial" / "a").mkdir()
    (tmp_path / "trial" / "a" / "events.out.tfevents.1").touch()
    assert "--metrics-file '{folder}/a'" in other_files_hint(tmp_path / "trial")


def test_a_folder_without_files_of_records_names_the_setting_that_may_write_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(Ended) as caught:
        run(tmp_path, "", file="{folder}")
    assert str(caught.value) == (
        "there is no file of TensorBoard or W&B below the trial's folder: tell the script to write there, such as "
        "--out {folder}, or for a logger of Lightning in a template --set 'trainer.logger.init_args.save_dir={folder}'"
    )


def test_a_judge_and_a_metrics_file_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="give one of the two"):
        command_evaluator("python x {lr}", None, {"judge": "python judge.py", "metrics_file": "{folder}"})


def test_columns_of_other_lengths_take_no_quadratic_time() -> None:
    columns: dict[str, list[int]] = {"loss": [1] * 50_000, **{f"k{number}": [1] for number in range(20_000)}}
    began = time.process_time()
    assert sum(map(len, rows(json.dumps(columns)))) == 70_000
    assert time.process_time() - began < 3.0


def test_a_row_of_csv_is_read_before_the_next_one() -> None:
    lines = text_rows("loss\n1\n" + "9" * 200_000, is_complete=True)
    assert next(lines) == {"loss": 1.0}
    with pytest.raises(ValueError, match="it is no CSV"):
        next(lines)


def test_few_names_of_a_row_are_remembered(tmp_path: Path) -> None:
    file = MetricsFile("{folder}/m.json", tmp_path, {}, ["loss"], (), lambda row: None)
    (tmp_path / "m.json").write_text(json.dumps({f"k{number}": 1 for number in range(5000)}))
    file.read_all()
    assert len(file._words_by_key) == 1000


def test_empty_parts_of_a_record_take_no_quadratic_time(tmp_path: Path) -> None:
    part = struct.pack("<IHB", zlib.crc32(b"\3"), 0, 3)
    block = part * ((BLOCK - HEAD) // len(part))
    first = (b":W&B" + bytes(HEAD - 4) + block + bytes(BLOCK))[:BLOCK]
    (tmp_path / "a.wandb").write_bytes(first + (block + part + b"\0") * 12)
    began = time.process_time()
    with (tmp_path / "a.wandb").open("rb") as file:
        assert list(wandb_records(file, 0)) == []
    assert time.process_time() - began < 3.0
