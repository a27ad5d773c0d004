"""How weights change: optimizers, schedules, gradients."""
