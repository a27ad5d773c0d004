from pathlib import Path

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import calibrate_memory, device_memory, fit_device, measure_peak_memory
from evo_tune.training.hardware import memory as capacity
from evo_tune.training.recipe import Fit, GPTConfig, fit_memory, predict_memory


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
    assert calibrate_memory("cpu", 100.0, lambda: ran.append("calibrate")) == 1.0
    assert ran == ["run"]
    with pytest.raises(RecipeError, match="predicted"):
        calibrate_memory("cpu", 0.0, lambda: None)
    calls: list[str] = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: calls.append(name))
    for measured, factor in ((150, 1.5), (80, 1.0)):
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device, measured=measured: measured)
        calls.clear()
        assert calibrate_memory("cuda", 100.0, lambda: calls.append("step")) == factor
        assert calls == ["synchronize", "reset_peak_memory_stats", "step", "synchronize"]


def test_a_fit_goes_by_the_whole_memory_and_on_a_gpu_by_a_probe_where_it_is_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = GPTConfig(context=128, depth=2, width=64)
    probed: list[Fit] = []
    total = 0.0
    monkeypatch.setattr(capacity, "device_memory", lambda device: total)
    monkeypatch.setattr(capacity, "measure_peak_memory", lambda device, run: [run(), 1.5 * predicted][1])

    def fit(device: str, **options: int) -> Fit:
        return fit_device(config, 16, device, probe=probed.append, **options)

    total = predict_memory(config, 16).peak / 0.9 * 1.001
    assert fit("cpu") == fit_memory(config, 16, total)
    assert fit("cpu").micro_batch == 16
    assert fit("cpu", sharing=2).micro_batch == fit_memory(config, 16, total / 2).micro_batch < 16
    assert fit("mps") == Fit(16, None, predict_memory(config, 16))
    memory = predict_memory(config, 16, device="cuda")
    predicted = memory.peak - memory.context
    total = memory.peak / 0.4
    assert fit("cuda").micro_batch == 16
    assert not probed
    total = memory.peak / 0.9 * 1.001
    assert fit("cuda") == fit_memory(config, 16, total, device="cuda", factor=1.5)
    assert fit("cuda").micro_batch < 16
    assert probed == [Fit(16, None, memory)] * 2
    assert fit_device(config, 16, "cuda").micro_batch == 16  # nobody to ask
    with pytest.raises(RecipeError, match="sharing"):
        fit("cpu", sharing=0)


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
