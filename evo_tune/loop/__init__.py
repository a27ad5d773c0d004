"""The one loop, and the steps before, during and after it."""
