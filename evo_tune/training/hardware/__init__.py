"""What a training takes of a machine, and how it uses it: memory, precision, ranks, speed."""
