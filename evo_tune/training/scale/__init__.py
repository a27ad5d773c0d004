"""A recipe and its loss at other sizes: published laws of the learning rate, fitted laws of the loss, probes."""
