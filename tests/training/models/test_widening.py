"""Models that are grown, before and after: the same function, and the moments that belong to it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Trainer
from evo_tune.training.models.growth import carry_state, enlarge
from evo_tune.training.recipe import GPTConfig
from evo_tune.training.recipe.models.starting import eps_after_growth, smaller_shape

pytestmark = pytest.mark.extended

TOKENS = torch.randint(0, 16, (4, 8), generator=torch.Generator().manual_seed(0))

OPTIONS = [
    {},
    {"bias": True, "tied": False, "init": "fan_in"},
    {"position": "rope", "ffn": "swiglu", "qk_norm": True, "init": "fan_in"},
    {"kv_heads": 2, "bias": True, "position": "rope"},
    {"kv_heads": 1, "ffn": "swiglu"},
    {"window": 3, "qk_norm": True},
    {"norm": "rmsnorm", "ffn": "relu2", "bias": True, "softcap": 2.0},
    {"norm": "rmsnorm", "tied": False, "residual_scaling": True},
    {"value_embeddings": True, "kv_heads": 2, "position": "rope"},
]


def shapes(depth: int, width: int, **options: object) -> tuple[GPTConfig, GPTConfig]:
    """A model of heads of 8 channels at the end, and the one of depth 2, width 16 that it is grown from."""
    if width // 8 % int(str(options.get("kv_heads", 1))):
        options["kv_heads"] = 1
    shape = {"vocab_size": 16, "context": 8, "depth": depth, "width": width, "heads": width // 8, **options}
    large = GPTConfig(**shape, norm_eps=eps_after_growth(16, width))  # type: ignore[arg-type]
    return smaller_shape(large, 2, 16), large


def trained(config: GPTConfig, make_trainer: Callable[..., Trainer], **options: object) -> Trainer:
    trainer = make_trainer(**{**config.to_json(), **options})
    trainer.run(2)
    return trainer


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
@pytest.mark.parametrize(("depth", "width"), [(2, 32), (2, 48), (5, 64), (3, 24), (2, 40), (4, 16)])
def test_a_grown_model_is_the_same_function(
    depth: int, width: int, options: dict[str, object], make_trainer: Callable[..., Trainer]
) -> None:
    """Whole multiples of the width, widths between, and the same."""
    small, large = shapes(depth, width, **options)
    model: GPT = trained(small, make_trainer).model.double()  # type: ignore[assignment]
    model.embedding.weight.data.mul_(0.05)  # so that ε counts
    grown = enlarge(model, large, seed=1)
    assert grown.config == large
    assert grown.embedding.weight.dtype is torch.float64
    assert [p.shape for p in grown.parameters()] == [p.shape for p in GPT(large).parameters()]
    assert float((grown(TOKENS) - model(TOKENS)).detach().abs().max()) < 1e-10


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_a_model_that_is_only_deeper_is_the_same_to_the_bit(
    options: dict[str, object], make_trainer: Callable[..., Trainer]
) -> None:
    small, large = shapes(5, 16, **options)
    model: GPT = trained(small, make_trainer).model  # type: ignore[assignment]
    grown = enlarge(model, large, seed=1)
    assert torch.equal(grown(TOKENS), model(TOKENS))
    assert len(grown.blocks) == 5


def test_a_grown_model_is_saved_with_its_norms(tmp_path: Path) -> None:
    large = GPT(shapes(2, 40)[1], seed=1)
    large.save(tmp_path)
    assert GPT.load(tmp_path).config == large.config
    assert large.norm.eps == pytest.approx(0.8e-5)


def gradients(model: GPT) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits = model(TOKENS)
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
@pytest.mark.parametrize("width", [32, 40])
def test_moments_are_those_of_the_gradients_that_the_grown_model_has(
    width: int, options: dict[str, object], make_trainer: Callable[..., Trainer]
) -> None:
    """Over the copies of a weight, carried moments add up to what the gradients of the grown model add up to."""
    small, large = shapes(2, width, **options)
    model: GPT = trained(small, make_trainer).model.double()  # type: ignore[assignment]
    grown = enlarge(model, large, seed=1)
    old, new = (torch.optim.SGD(one.parameters(), lr=0.0, momentum=0.9) for one in (model, grown))
    mine, expected = gradients(grown), gradients(model)
    old.step()  # whose moments are then the gradients
    carry_state(old, model, new, grown)
    for name, parameter in grown.named_parameters():
        carried = new.state[parameter]["momentum_buffer"]
        assert carried.shape == parameter.shape
        # Along the way on which all weights grow alike, the loss falls as fast as by the old gradient.
        with torch.no_grad():
            rise = enlarge_change(model, grown, large, name)
            fall = float((expected[name] * model.get_parameter(name)).sum())
        assert float((carried * rise).sum()) == pytest.approx(fall, abs=1e-9)
        assert float((mine[name] * rise).sum()) == pytest.approx(fall, abs=1e-9)


def enlarge_change(model: GPT, grown: GPT, config: GPTConfig, name: str) -> torch.Tensor:
    """By how much a grown parameter changes where the small model's is doubled."""
    parameter = model.get_parameter(name)
    parameter.mul_(2.0)
    twice = enlarge(model, config, seed=1).get_parameter(name)
    parameter.div_(2.0)
    return twice - grown.get_parameter(name)


def states(optimizer: torch.optim.Optimizer) -> dict[torch.Tensor, dict[str, torch.Tensor]]:
    parts = getattr(optimizer, "optimizers", [optimizer])
    return {parameter: state for part in parts for parameter, state in part.state.items()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_grown_training_goes_on(optimizer: str, make_trainer: Callable[..., Trainer]) -> None:
    """New weights have no moments, old ones theirs; what was equal or zero does not stay so."""
    small, large = shapes(3, 32, bias=True)
    trainer = trained(small, make_trainer, optimizer=optimizer)
    grown = enlarge(trainer.model, large, seed=1)  # type: ignore[arg-type]
    larger = Trainer(grown, trainer.source, trainer.recipe, seed=trainer.seed)
    carry_state(trainer.optimizer, trainer.model, larger.optimizer, grown)  # type: ignore[arg-type]
    moments, before = states(larger.optimizer), states(trainer.optimizer)
    embedding = grown.embedding.weight
    key = "momentum_buffer" if optimizer == "sgd" else "exp_avg"
    assert moments[embedding][key].any()
    assert grown.blocks[1].ffn.out.weight not in moments
    old, new = (model.attention.qkv.weight for model in (trainer.model.blocks[1], grown.blocks[2]))  # type: ignore[index, union-attr]
    name = "momentum_buffer" if optimizer in ("sgd", "muon") else "exp_avg_sq"
    assert torch.equal(moments[new][name][:16, 16:32], before[old][name][:16])
    assert torch.equal(embedding[:, :16], embedding[:, 16:])
    larger.step = trainer.step
    larger.run(8)
    assert not torch.allclose(embedding[:, :16], embedding[:, 16:], rtol=0, atol=1e-5)
    assert grown.blocks[1].ffn.out.weight.any()
    assert grown.blocks[0].attention.out.weight[:, 16:].any()


def test_the_small_model_has_heads_of_the_same_width_that_share_keys_alike() -> None:
    large = GPTConfig(depth=4, width=96, heads=12, kv_heads=4)
    small = smaller_shape(large, 2, 64)
    assert (small.depth, small.width, small.heads, small.kv_heads) == (2, 64, 8, 4)
    assert smaller_shape(replace(large, kv_heads=None), 2, 40).heads == 5
    assert smaller_shape(large, 4, 8).kv_heads == 1 or smaller_shape(large, 4, 8).key_value_heads == 1


@pytest.mark.parametrize(
    ("size", "options", "told"),
    [
        ((2, 64), {}, "less than"),
        ((5, 32), {}, "less than"),
        ((2, 128), {}, "less than"),
        ((2, 24), {"heads": 4}, "multiple of 16"),
        ((2, 32), {"position": "sinusoidal"}, "sinusoidal"),
        ((1, 64), {"window": 8, "window_pattern": "SL"}, "window_pattern"),
        ((2, 40), {"kv_heads": 4}, "share keys"),
        ((3, 64), {"depth": 4, "value_embeddings": True}, "value_embeddings"),
    ],
)
def test_what_it_cannot_be_grown_from_is_refused(size: tuple[int, int], options: dict[str, object], told: str) -> None:
    config = GPTConfig(**{"depth": 2, "width": 64, "heads": 8, **options})  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=told):
        smaller_shape(config, *size)
