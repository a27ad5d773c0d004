"""A larger model that begins as the same function as a smaller one, and what an optimizer knew of it."""

from evo_tune.training.models.growth.reshaping import carry_state, grow, reshape

__all__ = ["carry_state", "grow", "reshape"]
