"""By what memory that ran out is told stands in one place: trainings, scripts and workers go by it."""

import sys
from pathlib import Path

import pytest

from evo_tune import Context
from evo_tune.dispatch.worker import verdict_of_error
from evo_tune.errors import is_out_of_memory, tells_of_memory
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.plugins.scripts.script import Script

SIGNS = (
    "CUDA out of memory. Tried to allocate 20.00 GiB",
    "torch.OutOfMemoryError: HIP",
    "MemoryError",
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    "[Errno 12] Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)",
)


@pytest.mark.parametrize("text", SIGNS)
def test_whoever_says_so_is_understood(text: str, tmp_path: Path) -> None:
    assert tells_of_memory(text)
    assert is_out_of_memory(RuntimeError(text))
    assert verdict_of_error(RuntimeError(text), "here.py", str(tmp_path / "_trials" / "0")).status == "out_of_memory"
    (tmp_path / "script.py").write_text(f"import sys\nsys.exit({text!r})\n")
    with pytest.raises(Ended) as caught:
        Script(f"{sys.executable} {tmp_path}/script.py {{x}}", ["v"]).run({"x": 1}, Context(folder=tmp_path))
    assert caught.value.status == "out_of_memory"


def test_other_failures_are_no_lack_of_memory() -> None:
    assert not tells_of_memory("CUDA error: an illegal memory access was encountered")
    assert not is_out_of_memory(ValueError("out of memory"))
