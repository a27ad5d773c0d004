"""Search spaces, genomes and trials as plain data."""
