import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Adapters, LoRA, Trainer, add_adapters, add_lora, fold_lora
from evo_tune.training.optim.optimizer import decay_groups
from evo_tune.training.recipe import GPTConfig

TOKENS = torch.randint(0, 16, (4, 8), generator=torch.Generator().manual_seed(0))


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def rebuilt(trainer: Trainer) -> Trainer:
    """Return a trainer for the same model, whose trainable weights are others now."""
    return Trainer(trainer.model, trainer.source, trainer.recipe, seed=trainer.seed)


@pytest.fixture(params=["lora", "dora", "adapters"])
def add(request: pytest.FixtureRequest) -> Callable[[nn.Module], list[str]]:
    return {
        "lora": lambda model: add_lora(model, LoRA(rank=4, dropout=0.1)),
        "dora": lambda model: add_lora(model, LoRA(rank=4, dropout=0.1, dora=True)),
        "adapters": lambda model: add_adapters(model, Adapters(bottleneck=4)),
    }[request.param]


def test_a_model_begins_as_it_was(add: Callable[[nn.Module], list[str]], make_trainer: Callable[..., Trainer]) -> None:
    model = make_trainer().model.eval()
    before = model(TOKENS)
    state = torch.get_rng_state()
    names = add(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(TOKENS), before)
    assert len(names) == len(set(names)) >= 4


def test_base_weights_are_the_same_to_the_bit_after_training(
    add: Callable[[nn.Module], list[str]], make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer(steps=40, batch=16, lr=3e-2, recipe={"ema": 0.9})
    base = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    add(trainer.model)
    tuned = rebuilt(trainer)
    start = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    tuned.run(40)
    after = tuned.model.state_dict()
    assert set(base) < set(after)  # under the same names
    assert not any(torch.equal(after[name], start[name]) for name in after.keys() - base.keys())
    assert all(torch.equal(tensor, after[name]) for name, tensor in base.items())
    assert all(tensor.any() for name, tensor in after.items() if name not in base)


def test_ten_and_ten_steps_are_twenty_to_the_bit(
    add: Callable[[nn.Module], list[str]], make_trainer: Callable[..., Trainer]
) -> None:
    trainers = []
    for _ in range(3):
        trainer = make_trainer(dropout=0.1)
        trainer.model.recompute = 1
        add(trainer.model)
        trainers.append(rebuilt(trainer))
    whole, first, second = trainers
    whole.run(20)
    first.run(10)
    second.restore(copy.deepcopy(first.state()))
    second.run(20)
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.model.state_dict().items())


@pytest.mark.parametrize(
    ("targets", "each"),
    [(("qkv",), 8 * (64 + 192)), (("*",), 8 * (64 + 192 + 128 + 2 * (64 + 256))), (("*.0.ffn.*",), 8 * 320)],
)
def test_it_trains_as_many_weights_as_the_formula_says(targets: tuple[str, ...], each: int) -> None:
    model = GPT(GPTConfig(depth=2))
    add_lora(model, LoRA(rank=8, targets=targets))
    assert trainable(model) == 2 * each


def test_the_known_count() -> None:
    model = GPT(GPTConfig(depth=3))
    add_lora(model, LoRA(rank=8, targets=("attention.qkv",)))
    assert trainable(model) == 6144


def test_adapters_are_two_a_block() -> None:
    model = GPT(GPTConfig(depth=3))
    names = add_adapters(model, Adapters(bottleneck=5))
    assert names == [f"blocks.{block}.{part}.out" for block in range(3) for part in ("attention", "ffn")]
    assert trainable(model) == 3 * 2 * (2 * 5 * 64 + 64 + 5)


def test_what_is_learned_is_what_the_formula_says() -> None:
    layer = nn.Sequential(nn.Linear(6, 4))
    base = copy.deepcopy(layer)
    add_lora(layer, LoRA(rank=2, alpha=6.0, dropout=0.0))
    lora = layer[0].lora
    nn.init.normal_(lora.b, generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(layer(x), base(x) + 3.0 * x @ (lora.b @ lora.a).T, atol=1e-6)


def test_dora_is_what_its_formula_says_and_its_gradient_takes_the_norm_as_a_constant() -> None:
    layer = nn.Sequential(nn.Linear(6, 4))
    base = copy.deepcopy(layer[0])
    add_lora(layer, LoRA(rank=2, alpha=6.0, dropout=0.0, dora=True))
    lora = layer[0].lora
    rng = torch.Generator().manual_seed(0)
    nn.init.normal_(lora.b, generator=rng)
    with torch.no_grad():
        lora.lengths += torch.rand(4, generator=rng)
    x = torch.randn(3, 6, generator=rng)
    a, b, m = (p.detach().clone().requires_grad_() for p in (lora.a, lora.b, lora.lengths))
    v = base.weight.detach() + 3.0 * b @ a
    expected = F.linear(x, (m / v.detach().norm(dim=1))[:, None] * v, base.bias.detach())
    assert torch.allclose(layer(x), expected, atol=1e-6)
    expected.square().sum().backward()
    layer(x).square().sum().backward()
    for mine, theirs in ((lora.a, a), (lora.b, b), (lora.lengths, m)):
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_dora_learns_a_length_for_each_output_too() -> None:
    model = GPT(GPTConfig(depth=2))
    add_lora(model, LoRA(rank=8, targets=("qkv",), dora=True))
    assert trainable(model) == 2 * (8 * (64 + 192) + 192)


def test_dora_on_weights_of_zero_stays_finite() -> None:
    model = GPT(GPTConfig(vocab_size=16, context=8, depth=1, width=16, heads=2, init="fan_in"))  # outputs at zero
    add_lora(model, LoRA(rank=2, targets=("out",), dora=True))
    model(TOKENS).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_dropout_is_on_the_learned_map_alone_and_off_in_eval() -> None:
    layer = nn.Sequential(nn.Linear(6, 4))
    base = copy.deepcopy(layer)
    add_lora(layer, LoRA(rank=2, dropout=0.5))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(layer(x), base(x))
    nn.init.normal_(layer[0].lora.b, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_dropout_drops_inputs_of_the_learned_map_and_not_its_ranks() -> None:
    layer = nn.Sequential(nn.Linear(16, 1))
    add_lora(layer, LoRA(rank=1, alpha=1.0, dropout=0.5))
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    learned = (layer(torch.ones(200, 16)).detach() - 17.0) / 2.0  # number of inputs that are not dropped
    assert learned.unique().numel() > 5
    assert abs(float(learned.mean()) - 8.0) < 1.0


@pytest.mark.parametrize("dora", [False, True])
def test_merged_it_is_the_same_model(dora: bool, make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(lr=3e-2)
    name = "blocks.0.ffn.up.weight"
    names, weight = set(trainer.model.state_dict()), trainer.model.state_dict()[name].clone()
    add_lora(trainer.model, LoRA(rank=2, dropout=0.5, dora=dora))
    rebuilt(trainer).run(20)
    model = trainer.model.eval()
    apart = model(TOKENS)
    fold_lora(model)
    assert torch.allclose(model(TOKENS), apart, rtol=0, atol=3e-6)
    assert not torch.equal(model.state_dict()[name], weight)
    assert set(model.state_dict()) == names
    plain = GPT(model.config).eval()  # type: ignore[arg-type]
    plain.load_state_dict(model.state_dict())
    assert torch.allclose(plain(TOKENS), apart, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dora", [False, True])
def test_low_rank_maps_decay_and_dora_s_lengths_do_not(dora: bool) -> None:
    model = GPT(GPTConfig())
    layers = add_lora(model, LoRA(dora=dora))
    decayed, others = decay_groups(model)
    assert {p.ndim for p in decayed} == {2}
    assert {p.ndim for p in others} == ({1} if dora else set())
    assert (len(decayed), len(others)) == (2 * len(layers), len(layers) if dora else 0)


def test_a_copy_has_adapters_of_its_own() -> None:
    model = GPT(GPTConfig(depth=1, context=8))
    add_adapters(model, Adapters())
    twin = copy.deepcopy(model)
    before = model(TOKENS)
    nn.init.ones_(twin.blocks[0].ffn.out.adapter.up.weight)
    assert torch.equal(model(TOKENS), before)
    assert not torch.equal(twin(TOKENS), before)


def test_a_target_that_names_nothing_is_told_what_there_is() -> None:
    model = GPT(GPTConfig(depth=1))
    for add_to in (
        lambda: add_lora(model, LoRA(targets=("q_proj",))),
        lambda: add_adapters(model, Adapters(targets=("mlp",))),
    ):
        with pytest.raises(RecipeError, match=r"blocks\.0\.attention\.qkv, blocks\.0\.attention\.out"):
            add_to()
    assert trainable(model) == model.config.parameters


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    model = GPT(GPTConfig(depth=1, width=16, heads=2))
    with pytest.raises(RecipeError, match="rank"):
        add_lora(model, LoRA(rank=17))
    assert trainable(model) == model.config.parameters
    add_lora(model, LoRA(rank=2, targets=("qkv",)))
    with pytest.raises(RecipeError, match="without LoRA"):
        add_lora(model, LoRA(rank=2))
    add_adapters(model, Adapters())
    with pytest.raises(RecipeError, match="without an adapter"):
        add_adapters(model, Adapters())


def test_a_weight_that_is_an_embedding_too_is_refused() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(16, 8), "up": nn.Linear(8, 8), "head": nn.Linear(8, 16)})
    model["head"].weight = model["embedding"].weight
    with pytest.raises(RecipeError, match=r"targets='head'.*shares its weight with embedding"):
        add_lora(model, LoRA(rank=2))
    assert trainable(model) == 8 * 16 + 16 + 8 * 9
    assert add_lora(model, LoRA(rank=2, targets=("up",))) == ["up"]


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"rank": 2.0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ()}, {"targets": "qkv"}, {"dora": 1}],
)
def test_fields_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        LoRA(**options)  # type: ignore[arg-type]
    with pytest.raises(RecipeError):
        Adapters(bottleneck=0)
