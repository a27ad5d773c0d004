import pytest
import torch

from evo_tune.training.models.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.75])
def test_it_drops_the_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(3, 333, 777, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    dropped = float((y == 0).float().mean())
    assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-17)
    assert y[y != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=0.004)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # type: ignore[arg-type]


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(400_000)) != 0).float() - 0.5
    for distance in (1, 2, 3, 4, 8):
        assert abs(float((kept[distance:] * kept[:-distance]).mean())) < 5 * 0.25 / 400_000**0.5


def test_the_noise_is_the_generators() -> None:
    layer, x = Dropout(0.5), torch.ones(1000)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(layer(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_without_a_share_or_when_judged_nothing_is_drawn() -> None:
    x, before = torch.ones(4), torch.get_rng_state()
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), before)
    assert Dropout(0.5)(torch.ones(2, 0, 3)).shape == (2, 0, 3)
    assert Dropout(0.5)(torch.ones(2, 3, device="meta")).device.type == "meta"
