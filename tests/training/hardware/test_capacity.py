from pathlib import Path

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import device_memory, fit_device, measure_peak_memory
from evo_tune.training.hardware import device as capacity
from evo_tune.training.recipe import GPTConfig, fit_memory, predict_memory
from evo_tune.training.recipe.hardware.memory import Fit


def physical() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return 1024.0 * int(line.split()[1])
    raise AssertionError("no MemTotal")


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads /proc")
def test_capacity_is_the_machines_or_its_containers_and_not_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(capacity, "_LIMITS", (str(tmp_path / "nothing"), str(limit)))
    assert device_memory() == pytest.approx(physical(), rel=1e-3)
    held = [bytearray(2**26)]
    assert device_memory("cpu") == device_memory()
    del held
    for text, expected in (("max\n", device_memory()), ("123456\n", 123456.0), ("9" * 19, device_memory())):
        limit.write_text(text)
        assert device_memory() == expected


def test_other_devices_are_refused() -> None:
    with pytest.raises(RecipeError, match="device"):
        device_memory("mps")


def test_a_cpu_is_not_measured_and_a_gpu_by_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    assert measure_peak_memory("cpu", lambda: ran.append("run")) is None
    assert ran == ["run"]
    calls: list[str] = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 150)
    assert measure_peak_memory("cuda", lambda: calls.append("step")) == 150.0
    assert calls == ["synchronize", "reset_peak_memory_stats", "step", "synchronize"]


def test_a_fit_goes_by_the_whole_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTConfig(context=128, depth=2, width=64)
    total = predict_memory(config, 16).peak / 0.9 * 1.001
    monkeypatch.setattr(capacity, "device_memory", lambda device: total)
    assert fit_device(config, 16, "cpu") == fit_memory(config, 16, total)
    assert fit_device(config, 16, "cpu").micro_batch == 16
    assert fit_device(config, 16, "cpu", sharing=2).micro_batch == fit_memory(config, 16, total / 2).micro_batch < 16
    assert fit_device(config, 16, "mps") == Fit(16, None, predict_memory(config, 16))
    total = predict_memory(config, 16, device="cuda").peak / 0.9 * 0.999
    assert fit_device(config, 16, "cuda", sharing=2) == fit_memory(config, 16, total, device="cuda")
    assert fit_device(config, 16, "cuda").micro_batch < 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_prediction_is_near_what_was_measured() -> None:
    from evo_tune.training import GPT, AdamW, accumulate
    from evo_tune.training.recipe import GPTConfig, predict_memory

    config = GPTConfig(context=256, depth=4, width=256, heads=4)
    tokens = torch.zeros(16, 256, dtype=torch.long)

    def step() -> None:
        model = GPT(config).to("cuda")
        optimizer = AdamW(lr=1e-3).build(model)
        for _ in range(2):
            accumulate(model, [(tokens, tokens)], "cuda")
            optimizer.step()

    predicted = predict_memory(config, 16, device="cuda", accumulated=True)
    measured = measure_peak_memory("cuda", step)
    assert measured is not None
    assert 0.7 < measured / (predicted.peak - predicted.context) < 1.1
