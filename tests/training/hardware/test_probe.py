import json
from pathlib import Path

import pytest
import torch

from evo_tune.training import Precision, fastest_precision
from evo_tune.training.hardware import precision as probe


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gains that the next timings find, the last one first."""
    gains = [0.8, 2.0]
    monkeypatch.setattr(probe, "_measure_gain", gains.pop)
    return gains


def test_a_real_machine_gets_an_answer_that_it_computes_in(tmp_path: Path) -> None:
    name = fastest_precision("cpu", tmp_path)
    Precision(name=name).check_device(torch.device("cpu"))
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["gain"] > 0


def test_a_machine_is_timed_once_for_each_number_of_threads(tmp_path: Path, timed: list[float]) -> None:
    assert [fastest_precision("cpu", tmp_path) for _ in range(3)] == ["bf16"] * 3
    torch.set_num_threads(2)
    assert [fastest_precision("cpu", tmp_path) for _ in range(2)] == ["fp32"] * 2
    assert timed == []


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b'{"key": 1}', b'{"key": "another machine", "gain": 0.1}']
)
def test_a_damaged_or_foreign_answer_is_written_anew(tmp_path: Path, content: bytes, timed: list[float]) -> None:
    fastest_precision("cpu", tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(content)
    assert fastest_precision("cpu", tmp_path) == "fp32"
    assert file.read_bytes() == good.replace(b"2.0", b"0.8")


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, timed: list[float]) -> None:
    (tmp_path / "file").write_text("no folder")
    assert fastest_precision("cpu", tmp_path / "file") == "bf16"
    assert fastest_precision("cpu", tmp_path / "file") == "fp32"  # timed again


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_is_asked(able: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert fastest_precision("cuda") == expected


def test_narrow_models_are_no_faster_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probe, "_measure_gain", lambda: 2.0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert fastest_precision("cpu", tmp_path) == "bf16"
    assert fastest_precision("cpu", tmp_path, narrow=True) == "fp32"
    assert fastest_precision("cuda", tmp_path, narrow=True) == "bf16"


def test_other_devices_compute_in_full(tmp_path: Path) -> None:
    assert fastest_precision("mps", tmp_path) == fastest_precision("meta", tmp_path) == "fp32"
