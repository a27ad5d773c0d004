"""What `saea` is made of: what its models believe, where they search, and who is asked when they stand still."""
