"""What a training reads, without tensors: texts, tokens, tables, images."""
