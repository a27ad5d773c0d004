"""What the tests of ranks call in each of them."""

from __future__ import annotations

from typing import Any

from evo_tune import Context, Minimize
from evo_tune.integrations.ranks import report
from evo_tune.plugins.context import Pruned


def counted(genome: dict[str, Any], context: Context, *, points: int) -> dict[str, Any]:
    """Report a curve that rises from every rank; return who took part, and whom a bound of rank 0's stopped."""
    import torch.distributed as dist

    for point in range(1, points + 1):
        report(context, point / points, {"loss": genome["x"] * point * (1 + dist.get_rank())})
    # A context of its own with a bound, as where a script is started by torchrun; by rank 1's numbers it is not passed.
    bound = ((0.5, "loss", 1.0),)
    own = Context(stop_if=bound, objectives=[Minimize("loss")])
    stopped = 0.0
    for at in (0.5, 0.75, 1.0):
        try:
            report(own, at, {"loss": 0.5 if dist.get_rank() else 2 * at})
        except Pruned:
            stopped = at
            break
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (dist.get_rank(), stopped, len(own.curve)))
    return {"everyone": everyone, "seed": context.seed, "device": context.device}


def trained(genome: dict[str, Any], context: Context, *, steps: int) -> dict[str, float]:
    """Train the example of Hugging Face's Trainer in every rank; return rank 0's metrics and how far weights differ."""
    import torch
    import torch.distributed as dist
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, set_seed

    from evo_tune.integrations.transformers import train, training_arguments

    set_seed(context.seed)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, **shape))
    rows = [[1 + (start + place) % 63 for place in range(16)] for start in range(63)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    often = {"eval_strategy": "steps", "eval_steps": 4, "per_device_eval_batch_size": 32}
    arguments = training_arguments(context, genome, max_steps=steps, **often)
    metrics = train(Trainer(model, arguments, train_dataset=data[::2], eval_dataset=data[1::2]), context)
    weights = torch.cat([one.detach().flatten() for one in model.parameters()])
    first = weights.clone()
    dist.broadcast(first, 0)
    apart = (weights - first).abs().max()
    dist.all_reduce(apart, dist.ReduceOp.MAX)
    return {**metrics, "apart": float(apart), "ranks": float(arguments.world_size)}


def fitted(genome: dict[str, Any], context: Context, *, steps: int) -> dict[str, float]:
    """The same with Lightning."""
    import torch
    import torch.distributed as dist
    from lightning.pytorch.demos.boring_classes import BoringModel

    from evo_tune.integrations.lightning import fit, trainer

    class Model(BoringModel):
        def validation_step(self, batch: Any, index: int) -> Any:
            loss = self.step(batch)
            self.log("val_loss", loss, sync_dist=True)
            return loss

    made = trainer(context, max_steps=steps, val_check_interval=2)
    model = Model()
    train, held_out = (torch.utils.data.DataLoader(torch.randn(32, 32), batch_size=4) for _ in range(2))
    metrics = fit(made, model, context, train, held_out)
    weights = torch.cat([one.detach().flatten() for one in model.parameters()])
    first = weights.clone()
    dist.broadcast(first, 0)
    apart = (weights - first).abs().max()
    dist.all_reduce(apart, dist.ReduceOp.MAX)
    return {**metrics, "apart": float(apart), "ranks": float(made.world_size)}
