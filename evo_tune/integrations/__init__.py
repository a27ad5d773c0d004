"""Other people's trainers and tools, each a file with its extra."""
