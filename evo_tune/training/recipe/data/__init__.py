"""Inputs of a training, without tensors: texts, tokens, tables, images."""
