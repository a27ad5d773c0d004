"""What may vary, and what came of it, as plain data; it imports `errors` only."""
