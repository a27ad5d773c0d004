"""Resources of a training, as arithmetic: FLOPs, memory, sizes that suit a device."""
