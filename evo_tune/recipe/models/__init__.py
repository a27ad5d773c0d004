"""The shapes that describe models, and how they depend on size."""
