"""Several trainings of one shape as one: their weights in one table, their products in one call."""
