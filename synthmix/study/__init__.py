"""A study: a grid of cells, the store they live in, and what runs them."""
