"""Shapes of a study: curves over the share, laws over size, decay over iterations."""
