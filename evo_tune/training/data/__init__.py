"""Training data: texts, tokens, windows, tables, batches."""
