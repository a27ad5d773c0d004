"""Measurements of a machine and of models: speed of products, attention, memory and launches; coordinate check."""
