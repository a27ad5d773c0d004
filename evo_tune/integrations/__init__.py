"""Other people's trainers and tools. Each is imported on first use, and a missing package names its extra."""
