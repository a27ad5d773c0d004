import pytest

from evo_tune.errors import RecipeError
from evo_tune.training import Throughput, mfu, peak_flops
from evo_tune.training.hardware.device import CHIPS
from evo_tune.training.recipe import GPTConfig, flops_per_token


def test_mfu_is_what_the_model_needs_over_what_the_device_can() -> None:
    config = GPTConfig()
    needed = flops_per_token(config)
    assert mfu(needed, 1e15 / needed, 1e15) == pytest.approx(1.0)
    assert mfu(needed, 1e15 / needed, 1e15, devices=4) == pytest.approx(0.25)
    assert mfu(needed, 1e6, None) is None


def test_peaks_are_known_by_name_and_precision_or_not_at_all() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H100 NVL", "fp16") == 835e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA L4") == 121e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA L40") == 181e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "tf32") == 156e12
    assert peak_flops("Tesla T4") is None  # it has no bfloat16
    assert peak_flops("Tesla T4", "fp16") == 65e12
    for unknown in ("Intel(R) Xeon(R)", "", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"):
        assert peak_flops(unknown) is None


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 3090", "bf16", 71e12),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", 80e12),
        ("GeForce RTX 3090", "fp32", 35.6e12),  # as an older driver says it
        ("NVIDIA GeForce RTX 5090", "bf16", 209.5e12),
        ("NVIDIA GH200 480GB", "bf16", 989e12),
        ("NVIDIA H200", "fp32", 67e12),
        ("NVIDIA H20", "bf16", 148e12),
        ("NVIDIA B200", "bf16", 2250e12),
        ("NVIDIA A10G", "bf16", 70e12),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA RTX A6000", "bf16", 154.8e12),
        ("NVIDIA RTX 6000 Ada Generation", "bf16", 364.2e12),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla V100-SXM2-16GB", "tf32", None),
    ],
)
def test_a_chip_is_known_by_exactly_its_name(name: str, precision: str, peak: float | None) -> None:
    assert peak_flops(name, precision) == (None if peak is None else pytest.approx(peak))


def test_the_table_has_a_row_for_each_name_and_each_row_adds_up() -> None:
    names = [name for row in CHIPS for name in row.names]
    assert len(names) == len(set(names))
    assert not any(name.startswith("NVIDIA") for name in names)
    for row in CHIPS:
        assert row.source
        assert row.fp32 <= (row.tf32 or row.fp32) <= (row.bf16 or row.fp16) <= row.fp16, row
        assert 100.0 < row.bandwidth < 10_000.0  # GB/s


def test_throughput_is_a_median_after_the_first_steps() -> None:
    """Ten slow steps, then 5 tokens a second, once held up; one step of padding only counts as none."""
    now = 0.0
    watch = Throughput(skip=10, clock=lambda: now)
    assert watch.tokens_per_second is None
    for seconds, targets in [(9.0, 10)] * 10 + [(2.0, 10), (2.0, 10), (50.0, 10), (2.0, 10), (2.0, 0)]:
        now += seconds
        watch(targets)
    assert watch.tokens_per_second == 5.0


def test_what_lies_between_is_nobodys_time() -> None:
    now = 0.0
    watch = Throughput(skip=0, clock=lambda: now)
    now += 1.0
    watch(8)
    now += 100.0  # an evaluation
    watch.start()
    now += 1.0
    watch(8)
    assert watch.tokens_per_second == 8.0


def test_numbers_out_of_range_are_refused() -> None:
    for arguments in ((0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0), (1.0, 1.0, 0.0)):
        with pytest.raises(RecipeError):
            mfu(*arguments)
    with pytest.raises(RecipeError, match="devices"):
        mfu(1.0, 1.0, None, devices=0)
    with pytest.raises(RecipeError, match="skip"):
        Throughput(skip=-1)
    with pytest.raises(RecipeError, match="precision"):
        peak_flops("NVIDIA L4", "fp8")
