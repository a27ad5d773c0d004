"""Contracts of evaluators and strategies, which users write, and the search for their files."""
