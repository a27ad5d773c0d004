"""The parts of commands that know how models are trained: `auto`, `devices`, `export`, `scale`, `run --for-scale`."""
