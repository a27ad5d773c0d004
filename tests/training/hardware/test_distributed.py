"""One start of two ranks answers most of this, in the proofs one under torchrun; see `ranks_program`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.plugins.ranks import check_ranks
from evo_tune.training import GPT, IGNORE, Ranks, RanksDiffer, TrainingWindows, process_group
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.hardware.distributed import weight_hash
from evo_tune.training.recipe import GPTConfig
from tests.training import ranks_program as program
from tests.training.forked import STARTS, Forked

pytestmark = pytest.mark.xdist_group("ranks")  # they are started once


@pytest.fixture(scope="module", params=STARTS)
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found, by rank."""
    path = tmp_path_factory.mktemp("ranks") / "answers.pt"
    if request.param == "forked":
        _run_as_torchrun_does(path)
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*torchrun, "-m", "tests.training.ranks_program", str(path)]
        done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = torch.load(path, weights_only=False)
    return found


def _run_as_torchrun_does(path: Path) -> None:
    """Start two ranks in the environment that torchrun gives, with the store that it keeps for them."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "GLOO_SOCKET_IFNAME": "lo"}
    env |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    ranks = []
    for rank in ("0", "1"):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        ranks.append(Forked(["-m", "tests.training.ranks_program", str(path)], env={**env, **places}))
    try:
        assert [rank.wait(200) for rank in ranks] == [0, 0]
    finally:
        for one in ranks:
            one.kill()
            one.wait()


@pytest.mark.parametrize(
    ("precision", "tolerance"), [pytest.param("fp32", 1e-6, marks=pytest.mark.proof), ("fp64", 1e-13)]
)
def test_two_ranks_make_the_steps_of_one_process(
    precision: str, tolerance: float, answers: list[dict[str, Any]]
) -> None:
    """Ragged lengths, odd numbers of micro-batches, and a step with a sample for one rank only."""
    alone = program.small_training(None)[precision]
    for answer in answers:
        given = answer["training"][precision]
        for what in ("gradient", "weights"):
            assert float((given[what] - alone[what]).norm() / alone[what].norm()) < tolerance, what
        for mine, expected in zip(given["log"], alone["log"], strict=True):
            assert mine == pytest.approx(expected, rel=1e-6)
    assert torch.equal(answers[0]["training"][precision]["weights"], answers[1]["training"][precision]["weights"])


def test_gradients_travel_once_a_window(answers: list[dict[str, Any]]) -> None:
    for found in (answer["reductions"] for answer in answers):
        assert found["micro_batches"] == 3
        for buckets in found["ours"]:
            assert buckets == list(range(len(buckets))) != []
        assert len(found["backward_only"]) == 3 * len(found["ours"][1])  # what no_sync around backward alone does


def test_a_metric_is_the_same_on_any_number_of_ranks(answers: list[dict[str, Any]]) -> None:
    nll, count = program.score(None)
    for answer in answers:
        assert answer["score"] == (pytest.approx(nll, rel=1e-6), count)
        padded_nll, padded_count = answer["padded"]
        assert padded_count > count
        assert padded_nll / padded_count != pytest.approx(nll / count, rel=1e-3)


def test_what_one_rank_cannot_do_none_does(answers: list[dict[str, Any]]) -> None:
    for found in (answer["not_finite"] for answer in answers):
        assert found == {
            "reason": "loss is nan at step 1",
            "kept": True,
            "scale": 256.0,
            "overflows": 2,
            "same": True,
        }


def test_a_bit_that_differs_is_found_and_its_rank_named(answers: list[dict[str, Any]]) -> None:
    for found in (answer["one_bit"] for answer in answers):
        assert (found["equal"], found["changed"]) == ([], [1])
        assert found["message"].startswith("after step 2 the weights of rank 1 are not those of rank 0")
    error = RanksDiffer([1, 3], 20)
    rebuilt = error.__reduce__()
    assert str(rebuilt[0](*rebuilt[1])) == str(error)


def test_each_rank_orthogonalises_a_part_of_the_large_matrices(answers: list[dict[str, Any]]) -> None:
    for answer in (answer["shared_muon"] for answer in answers):
        # 3 of one shape, 2 too small to share, 1 alone; the third of a shape is computed with one that repeats.
        assert [sorted(counts) for counts in answer["counts"]] == [[1, 2, 3], [1, 2, 2]]
        for alone, shared in zip(answer["alone"], answer["shared"], strict=True):
            assert torch.equal(alone, shared)
    for mine, theirs in zip(*(answer["shared_muon"]["shared"] for answer in answers), strict=True):
        assert torch.equal(mine, theirs)


WEIGHTS = [
    torch.arange(300_000, dtype=torch.float32),  # several parts
    torch.arange(7, dtype=torch.float64),
    torch.arange(5, dtype=torch.bfloat16),
    torch.arange(6).reshape(2, 3).T,  # int64, not contiguous
    torch.tensor([True, False, True]),
    torch.tensor(3.0),
]


@pytest.mark.parametrize("number", range(len(WEIGHTS)))
@pytest.mark.parametrize("bit", [0, 7, -1])
def test_a_hash_of_weights_changes_with_each_bit(number: int, bit: int) -> None:
    changed = [weight.clone(memory_format=torch.contiguous_format) for weight in WEIGHTS]
    assert weight_hash(changed) == weight_hash(WEIGHTS)
    bytes_of = changed[number].view(-1).view(torch.uint8)
    bytes_of[len(bytes_of) // 2 if bit == 0 else -1] ^= 1 << bit % (8 if WEIGHTS[number].dtype != torch.bool else 1)
    assert weight_hash(changed) != weight_hash(WEIGHTS)


def test_a_hash_of_weights_changes_with_their_order_and_with_all_signs() -> None:
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    swapped = weight.clone()
    swapped[[3, 700]] = weight[[700, 3]]
    hashes = {int(weight_hash([tensor])) for tensor in (weight, swapped, -weight, weight.roll(1))}
    assert len(hashes) == 4
    assert weight_hash([weight, swapped]) != weight_hash([swapped, weight])


def test_noise_is_each_ranks_own_and_resuming_is_exact(answers: list[dict[str, Any]]) -> None:
    first, second = (answer["noise"] for answer in answers)
    assert not torch.equal(first["mask"], second["mask"])
    assert first["resumed"]
    assert second["resumed"]


def test_two_ranks_drop_what_one_process_drops(answers: list[dict[str, Any]]) -> None:
    alone = program.dropping_training(None)
    for answer in answers:
        given = answer["noise"]["weights"]
        assert float((given - alone).norm() / alone.norm()) < 1e-13


def test_ranks_agree_on_the_least(answers: list[dict[str, Any]]) -> None:
    assert [answer["least"] for answer in answers] == [[5, 0], [5, 0]]


def test_statistics_of_batch_norms_are_shared(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert answer["statistics"] == {"differing": [], "kinds": ["Linear", "BatchNorm1d"]}


@pytest.mark.parametrize(
    ("size", "device", "batch_norm", "converted"),
    [(2, "cuda", True, 1), (2, "cuda", False, 0), (2, "cpu", True, 0), (1, "cuda", True, 0)],
)
def test_batch_norms_become_synchronous_only_where_they_can(
    size: int, device: str, batch_norm: bool, converted: int
) -> None:
    middle = torch.nn.BatchNorm1d(4) if batch_norm else torch.nn.LayerNorm(4)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), middle, torch.nn.Linear(4, 2))
    before = list(model.parameters())
    made = Ranks(0, size, torch.device(device)).sync_batch_norms(model)
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in made.modules()) == converted
    assert all(was is now for was, now in zip(before, made.parameters(), strict=True))


def test_the_gpt_has_nothing_to_convert() -> None:
    model = GPT(GPTConfig())
    assert Ranks(0, 2, torch.device("cuda")).sync_batch_norms(model) is model


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_are_the_epoch_each_window_once_and_epochs_differ(
    size: int, micro_batch: int, text: torch.Tensor
) -> None:
    """A sampler whose set_epoch is forgotten gives every epoch the same order; one that pads, windows twice."""
    whole = TrainingWindows(text, context=16, batch=8, total=248, seed=3, micro_batch=micro_batch)
    assert whole.epoch_windows == 123  # an odd number, and two epochs and a bit

    def seen(window: list[MicroBatch]) -> list[bytes]:
        return [row.numpy().tobytes() for inputs, targets in window for row in inputs[(targets != IGNORE).any(1)]]

    orders: list[list[bytes]] = [[] for _ in range(size)]
    for step in range(whole.steps):
        window = whole.window(step)
        shares = [seen(list(Ranks(rank, size, torch.device("cpu")).share(window))) for rank in range(size)]
        assert sorted(row for share in shares for row in share) == sorted(seen(window))
        for order, share in zip(orders, shares, strict=True):
            order.extend(share)
    for order in orders:
        half = len(order) // 2
        assert order[:half] != order[half : 2 * half]


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"])
def test_without_torchrun_there_is_one_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv(missing)
    with pytest.raises(RecipeError, match=f"{missing}.*torchrun"), process_group():
        pass


@pytest.mark.parametrize(
    ("options", "field"),
    [({"timeout": 0.0}, "timeout"), ({"timeout": np.nan}, "timeout"), ({"check_every": 0}, "check_every")],
)
def test_fields_out_of_range_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError, match=field), process_group("cpu", **options):
        pass


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_ranks(2, "cuda:0")
    with pytest.raises(RecipeError, match=r"ranks=3 .*at most 2, the number of GPUs"):
        check_ranks(3, "cuda:0")
    for ranks in (0, True, 1.5):
        with pytest.raises(RecipeError, match="ranks"):
            check_ranks(ranks, "cpu")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="device"):
        check_ranks(2, "mps")
