"""What a training reads: texts, tokens, windows, tables, batches."""
