import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch

from evo_tune.training import Diverged, DivergenceWatch, Trainer

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
        watch.check(step, 1.0, 1.0)
    # The average is above 3 from the 22nd step of 4 on; the 50th of those steps is refused.
    for step in range(100, 100 + 21 + 49):
        watch.check(step, 4.0, 1.0)
    with pytest.raises(Diverged, match="times its best 1 at step 170"):
        watch.check(170, 4.0, 1.0)


def test_a_spike_is_forgiven_and_so_is_warmup() -> None:
    watch = DivergenceWatch(warmup=50, ceiling=5.0)
    for step in range(200):
        watch.check(step, 20.0 if step < 10 else 40.0 if step == 150 else 2.0, 1.0)
    watch.check(200, 40.0, 1.0)
    with pytest.raises(Diverged, match="above 5"):
        watch.check(201, 100.0, 1.0)


def test_it_goes_on_where_it_was() -> None:
    whole, parts = DivergenceWatch(), DivergenceWatch()
    for step in range(40):
        whole.check(step, 2.0 + math.sin(step), 1.0)
        parts.check(step, 2.0 + math.sin(step), 1.0)
        state, parts = parts.state(), DivergenceWatch()
        parts.restore(state)
    assert whole.state() == parts.state()


def test_the_exception_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(Diverged("loss is nan", 7)))
    assert (error.reason, error.step, str(error)) == ("loss is nan", 7, "loss is nan at step 7")
