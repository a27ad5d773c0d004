"""benchmarks/gpu.py at toy sizes on the CPU, so that a card that is rented by the hour meets no typing error."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import benchmark


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return benchmark("gpu")


PARTS = ["mfu", "memory", "study", "trials"]


@pytest.mark.extended
@pytest.mark.parametrize("name", PARTS)
def test_each_part_has_rows_at_toy_size(gpu: ModuleType, name: str) -> None:
    rows = list(gpu.PARTS[name][0](gpu.Bench("cpu", 1, limit=12.0)))
    assert rows
    if name == "study":
        losses = {row["contestant"].partition(" of a search")[0]: float(row["val_loss"]) for row in rows}
        assert losses.keys() == {
            "default genome",
            "nanoGPT's configuration",
            "nanoGPT's configuration, batch of the default",
            "best",
        }
        assert all(0.0 < loss < 8.0 for loss in losses.values())
    if name == "trials":
        assert [row["at a time"] for row in rows] == [1, 2]


def test_the_list_of_parts_is_whole_and_they_fit_into_the_time(gpu: ModuleType) -> None:
    assert list(gpu.PARTS) == PARTS
    assert all(f"\n    {name} " in gpu.__doc__ for name in gpu.PARTS)
    assert sum(share for _, share in gpu.PARTS.values()) <= 1.0


PART = """
import pathlib, subprocess, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
with (out / "gpu.jsonl").open("a") as file:
    file.write('{"part": "mfu", "row": {"model": "a|b", "tokens/s": "7"}}\\n')
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(out / "child").write_text(str(child.pid))
END
"""


def run(gpu: ModuleType, folder: Path, end: str, monkeypatch: pytest.MonkeyPatch, minutes: float = 1.0) -> int:
    script = folder / "part.py"
    script.write_text(PART.replace("END", end))
    monkeypatch.setattr(gpu, "__file__", str(script))
    arguments = argparse.Namespace(device="cpu", steps=1, text="", parts=["mfu"], minutes=minutes)
    incomplete: int = gpu.run_parts(arguments, folder / "out")
    return incomplete


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("end", "minutes", "said"),
    [
        ("", 1.0, " s)"),
        ("1 / 0", 1.0, "see gpu.log)"),
        pytest.param("time.sleep(60)", 0.15, "stopped at its limit of 9 s)", marks=pytest.mark.slow),
    ],
)
def test_a_part_that_fails_or_is_too_slow_leaves_its_rows_and_no_process(
    gpu: ModuleType,
    end: str,
    minutes: float,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(gpu, tmp_path, end, monkeypatch, minutes) == (1 if end else 0)
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert r"| a\|b | 7 |" in page
    assert said in next(line for line in page.splitlines() if line.startswith("## mfu ("))
    assert "| torch | " in page
    assert r"| a\|b | 7 |" in capsys.readouterr().out
    child = int((tmp_path / "out" / "child").read_text())
    for _ in range(50):
        if not is_running(child):
            break
        time.sleep(0.1)
    assert not is_running(child)
    if "1 / 0" in end:
        assert "ZeroDivisionError" in (tmp_path / "out" / "gpu.log").read_text()


def test_an_interrupt_ends_with_the_page(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "run_part", interrupt)
    arguments = argparse.Namespace(device="cpu", steps=1, text="", parts=["mfu", "trials"], minutes=1.0)
    assert gpu.run_parts(arguments, tmp_path) == 1
    assert "## mfu (interrupted)" in (page := (tmp_path / "gpu.md").read_text())
    assert "trials" not in page
