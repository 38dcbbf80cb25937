"""synthmix: how much synthetic training data is safe, for which model and task, and which metric warns first."""

__version__ = "0.1.0"
