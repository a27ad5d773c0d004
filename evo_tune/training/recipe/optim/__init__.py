"""Optimization, as options and arithmetic: schedules, weight decay, batches, early stopping."""
