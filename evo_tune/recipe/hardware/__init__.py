"""What a training takes of a machine, as arithmetic: FLOPs, memory, what a device wants."""
