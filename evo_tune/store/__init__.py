"""A run on disk: manifest, journal, generations."""
