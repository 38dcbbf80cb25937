"""The published numbers, and a study beside them in the layout of the paper."""
