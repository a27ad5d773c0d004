"""What of a stranger's is trusted: which code may be executed, and how files in a stranger's folder are opened."""
