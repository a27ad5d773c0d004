"""Lightning: a small network, made on the spot, learns sin(5x)."""

from evo_tune import Choice, Context, Float, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(1e-4, 0.1, log=True, default=0.01), width=Choice([8, 32, 128], ordered=True, default=32))
OBJECTIVES = [Minimize("val_loss")]
SUPPORTS = ["budget", "curve"]


def evaluate(genome: dict, context: Context, *, steps: int = 200) -> dict[str, float]:
    """Train for the budget and return what the last validation says."""
    import torch
    from lightning.pytorch import LightningModule
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from evo_tune.integrations.lightning import fit, trainer

    class Model(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, genome["width"]), nn.Tanh(), nn.Dropout(0.05))
            self.last = nn.Linear(genome["width"], 1)

        def training_step(self, batch, index):
            return nn.functional.mse_loss(self.last(self.net(batch[0])), batch[1])

        def validation_step(self, batch, index):
            self.log("val_loss", self.training_step(batch, index))

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=genome["lr"])
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, genome["lr"], total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    made = trainer(context, max_steps=steps, val_check_interval=1.0)  # before the model, for its seed
    x = torch.linspace(-1, 1, 512).unsqueeze(1)
    train, held_out = (TensorDataset(x[part::2], torch.sin(5 * x[part::2])) for part in (0, 1))
    return fit(made, Model(), context, DataLoader(train, 16, shuffle=True), DataLoader(held_out, 256))
