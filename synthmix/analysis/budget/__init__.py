"""How much synthetic data may I use? From a study, or from the published points."""
