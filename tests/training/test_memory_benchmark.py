"""benchmarks/memory.py: the predicted memory of a training and that of its real step with fake tensors."""

import pytest

from tests import conftest

MEMORY = conftest.benchmark("memory")
QUICK = ("cpu-10m", "cpu-10m-sgd", "gpu-10m-few", "gpu-10m-muon", "gpu-125m")


@pytest.mark.parametrize(
    "genome",
    [
        pytest.param(genome, marks=[] if genome.name in QUICK else pytest.mark.extended, id=genome.name)
        for genome in MEMORY.GENOMES
    ],
)
def test_predicted_memory_is_within_five_percent_of_a_tracked_step(genome: object) -> None:
    memory, tracked = genome.predict(), MEMORY.track(genome).peak  # type: ignore[attr-defined]
    assert (memory.peak - memory.context) / tracked == pytest.approx(1.0, abs=0.05)


def test_the_genomes_are_from_ten_million_to_a_billion_weights() -> None:
    sizes = [MEMORY.GPTConfig(**genome.config).parameters for genome in MEMORY.GENOMES]
    assert len(sizes) == 29
    assert min(sizes) > 10e6
    assert max(sizes) > 1e9


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fake_tensors_need_the_memory_of_real_ones(optimizer: str) -> None:
    genome = MEMORY.Genome("small", 2, MEMORY.shape(2, 128, 64, 256), {"optimizer": optimizer, "ema": True})
    fake, real = (MEMORY.track(genome, fake=fake).peak for fake in (True, False))
    assert fake == pytest.approx(real, rel=0.001)


def test_one_genome_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["memory.py", "--only", "gpu-10m-few"])
    MEMORY.main()
    head, row, summary = capsys.readouterr().out.splitlines()
    assert head.startswith("genome")
    assert row.startswith("gpu-10m-few")
    assert summary.startswith("1 genomes")
