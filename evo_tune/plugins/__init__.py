"""What users write, and where it is found: the contracts of evaluators and strategies."""
