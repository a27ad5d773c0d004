"""What a machine is good at, timed on it: products, attention, memory and the cost of asking for anything."""
