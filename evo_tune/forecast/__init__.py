"""What a run or a larger training will take, and what it will reach."""
