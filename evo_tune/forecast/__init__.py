"""Forecasts: the time and memory of a run, and a recipe at another size."""
