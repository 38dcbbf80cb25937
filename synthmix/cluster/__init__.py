"""Sweeps on SLURM: arrays from a plan, what the queue says of them, status, cancel."""
