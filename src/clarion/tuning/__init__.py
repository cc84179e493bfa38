"""Tuning: a Hydra sweeper over optuna whose trials are runs, scored on the validation split alone."""
