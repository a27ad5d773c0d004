"""What a course trains and is judged by: one file for each kind."""
