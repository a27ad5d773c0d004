"""What surrounds a step so that it never waits for its device: how data arrive, and what is decided there."""
