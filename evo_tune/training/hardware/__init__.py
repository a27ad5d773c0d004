"""Use of the machine by a training: memory, precision, ranks, speed."""
