"""Early warning judged as a forecast, and whether a rise of the ECE is real."""
