"""A larger model that begins as the same function as a smaller one, and what an optimizer knew of it."""
