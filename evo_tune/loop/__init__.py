"""The one loop, and what happens before, beside and after it."""
