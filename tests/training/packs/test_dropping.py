"""What is dropped in a pack is what each member would drop alone."""

from __future__ import annotations

import pytest
import torch

from evo_tune.training import Dropout
from evo_tune.training.models.dropout import attach_noise
from evo_tune.training.packs.dropping import PackedDropout

SHARES = (0.1, 0.0, 0.4)


@pytest.mark.parametrize("part", [0, 3])
@pytest.mark.parametrize("channels", [8, 7])
def test_each_members_samples_lose_what_they_would_alone(part: int, channels: int) -> None:
    members = [torch.nn.Sequential(Dropout(0.5), Dropout(share)).train() for share in SHARES]
    layers = [member[1] for member in members]
    x = torch.randn(3, 5, channels)
    packed = PackedDropout(layers)
    for seed, member in enumerate(members):
        noise = attach_noise(member, seed)
        assert noise is not None
        noise.begin(4, range(10, 15), torch.device("cpu"))
    packed.part = part
    for layer in layers:
        layer.part = part
    expected = torch.stack([layer(one) for layer, one in zip(layers, x, strict=True)])
    found = packed(x.flatten(0, 1)).view(x.shape)
    assert torch.equal(found, expected)
    assert (found == 0.0).any(2).any(1).tolist() == [True, False, True]
    both = PackedDropout([layers[0], layers[2]])
    assert both.noise
    alone = [seed for layer in (layers[0], layers[2]) if layer.noise for seed in layer.noise.seeds(layer.place, part)]
    assert both.noise.seeds(99, part) == alone
    assert len(set(alone)) == 10


def test_in_evaluation_and_where_nobody_drops_nothing_is_drawn() -> None:
    for layers in ([Dropout(0.3).eval()] * 2, [Dropout(0.0).train()] * 2):
        packed, x = PackedDropout(layers), torch.randn(4, 3)
        assert not packed.active
        assert packed(x) is x
