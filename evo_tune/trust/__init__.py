"""Trust in code and runs of other people, and safe access to files in their folders."""
