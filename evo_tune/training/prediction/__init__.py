"""Exported models: loading them from their folders, their predictions, and their model cards."""
