import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from evo_tune.training import Diverged, Trainer
from evo_tune.training.optim.watching import DivergenceWatch


def check(watch: DivergenceWatch, step: int, loss: float, norm: float = 1.0) -> None:
    watch.check(step, watch.judge(step, loss, norm))


Weights = Callable[[torch.nn.Module], dict[str, torch.Tensor]]


@pytest.mark.parametrize("k", [0, 1, 5])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights_of_the_step_before(
    k: int, poison: float, make_trainer: Callable[..., Trainer], weights: Weights
) -> None:
    healthy, sick = make_trainer(), make_trainer()
    healthy.run(k)
    sick.model.register_forward_hook(lambda module, inputs, output: output * (poison if sick.step == k else 1.0))
    with pytest.raises(Diverged, match=f"step {k}") as caught:
        sick.run(20)
    assert caught.value.step == k == sick.step
    assert caught.value.status == "diverged"
    expected = weights(healthy.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in sick.model.state_dict().items())
    assert repr(sick.optimizer.state_dict()["state"]) == repr(healthy.optimizer.state_dict()["state"])


def test_a_gradient_that_is_not_finite_leaves_them_too(make_trainer: Callable[..., Trainer], weights: Weights) -> None:
    trainer = make_trainer()
    trainer.run(3)
    before = copy.deepcopy(weights(trainer.model))
    trainer.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged, match="gradient norm"):
        trainer.run(20)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_a_loss_that_stays_at_three_times_its_best_is_lost() -> None:
    watch = DivergenceWatch()
    for step in range(100):
        check(watch, step, 1.0)
    # The average is above 3 from the 22nd step of 4 on; the 50th of those steps is refused.
    for step in range(100, 100 + 21 + 49):
        check(watch, step, 4.0)
    with pytest.raises(Diverged, match="times its best 1 at step 170"):
        check(watch, 170, 4.0)


def test_a_spike_is_forgiven_and_so_is_warmup() -> None:
    watch = DivergenceWatch(warmup=50, ceiling=5.0)
    for step in range(200):
        check(watch, step, 20.0 if step < 10 else 40.0 if step == 150 else 2.0)
    check(watch, 200, 40.0)
    with pytest.raises(Diverged, match="above 5"):
        check(watch, 201, 100.0)


def test_on_a_device_the_same_steps_are_refused() -> None:
    """Losses that wander, jump and rest high: whatever the limits, numbers and tensors are judged alike."""
    rng = torch.Generator().manual_seed(5)
    found = set()
    for case in range(12):
        limits: dict[str, Any] = {"warmup": 10 * (case % 3), "ceiling": [None, 2.5, 9.0][case % 3 if case < 9 else 0]}
        host, device = DivergenceWatch(**limits), DivergenceWatch(**limits, device="cpu")
        losses = 1.0 + torch.rand(150, generator=rng) + (torch.arange(150) > 10 * case) * (case % 4) * 1.7
        ended = None
        for step, loss in enumerate(losses):
            number = float(loss)
            verdict = host.judge(step, number, number)
            assert verdict == pytest.approx([float(value) for value in device.judge(step, loss, loss)], abs=0, rel=0)
            if verdict.refused:
                ended = step
                break
        found.add(ended is None)
        if ended is not None:  # what follows is refused too, whatever it is
            assert device.judge(ended + 1, torch.tensor(0.1), torch.tensor(0.1)).refused
            assert host.judge(ended + 1, 0.1, 0.1).refused
    assert found == {True, False}


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_step_that_overflows_is_refused_alone_and_leaves_no_trace(device: str | None) -> None:
    def number(value: float) -> Any:
        return value if device is None else torch.tensor(value)

    watch = DivergenceWatch(device=device)
    assert not watch.judge(0, number(2.0), number(1.0)).refused
    before = watch.state()
    verdict = watch.judge(1, number(9.0), number(math.inf), number(True))
    assert verdict.refused
    watch.check(1, verdict)
    assert watch.state() == before
    assert not watch.judge(2, number(2.0), number(1.0)).refused


def test_a_loss_near_zero_may_triple() -> None:
    watch = DivergenceWatch()
    for step, loss in enumerate([1e-3] * 20 + [0.2] * 200):
        check(watch, step, loss)
    for step in range(220, 400):
        check(watch, step, 0.4)
    watch.restore({"average": 0.9, "best": 0.1, "high_steps": DivergenceWatch.PATIENCE - 1})
    with pytest.raises(Diverged, match="times its best"):
        check(watch, 400, 0.9)


def test_it_goes_on_where_it_was() -> None:
    whole, parts = DivergenceWatch(), DivergenceWatch()
    for step in range(40):
        check(whole, step, 2.0 + math.sin(step))
        check(parts, step, 2.0 + math.sin(step))
        state, parts = parts.state(), DivergenceWatch()
        parts.restore(state)
    assert whole.state() == parts.state()


def test_the_exception_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(Diverged("loss is nan", 7)))
    assert (error.reason, error.step, str(error)) == ("loss is nan", 7, "loss is nan at step 7")
