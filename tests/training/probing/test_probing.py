"""What a device is timed to do, and what follows from it."""

from __future__ import annotations

import dataclasses

from evo_tune.training.hardware.timing import Sizes, probe_device
from evo_tune.training.recipe.hardware.computing import Timings, sizes_for_device

TINY = Sizes(
    products=(8, 16),
    widths=(15, 16),
    tokens=16,
    vocabularies=(17, 32),
    width=16,
    head_sizes=(4, 8),
    length=8,
    batches=(2, 8),
    memory=1024,
    seconds=1e-4,
)

CARD = Timings(
    device="NVIDIA H100 80GB HBM3",
    products={"fp32": {256: 1e12, 4096: 50e12}, "tf32": {256: 2e12, 4096: 300e12}, "bf16": {256: 2e12, 4096: 700e12}},
    widths={1022: 300.0, 1024: 600.0, 1032: 590.0, 1088: 610.0, 1020: 420.0},
    vocabularies={50257: 100.0, 50264: 200.0, 50272: 210.0, 50304: 600.0, 50432: 590.0},
    head_sizes={32: 100.0, 64: 300.0, 128: 310.0, 256: 200.0},
    batches={64: 10.0, 1024: 100.0, 16384: 350.0, 65536: 600.0},
    bandwidth=3e12,
    launch=5e-6,
)


def test_a_device_is_timed_in_what_it_computes_in() -> None:
    timings = probe_device("cpu", TINY)
    assert set(timings.products) == {"fp32", "bf16"}
    assert all(list(speeds) == [8, 16] for speeds in timings.products.values())
    for speeds in (timings.widths, timings.vocabularies, timings.head_sizes, timings.batches):
        assert min(speeds.values()) > 0
    assert timings.bandwidth > 0
    assert 0 < timings.launch < 0.01
    assert sizes_for_device(timings).batch in TINY.batches


def test_what_a_card_wants() -> None:
    suited = sizes_for_device(CARD)
    assert (suited.precision, suited.width, suited.vocabulary) == ("bf16", 8, 64)
    assert suited.head_sizes == (64, 128)
    assert suited.batch == 16384


def test_a_precision_of_less_must_be_worth_it() -> None:
    near = dataclasses.replace(CARD, products={"fp32": {256: 1.0}, "bf16": {256: 1.25}})
    assert sizes_for_device(near).precision == "fp32"
