"""Other people's training scripts as they are: called as processes, their metrics read from what they print."""
