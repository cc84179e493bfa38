"""Predictions + truth -> metrics with n, interval and baseline. No evaluator runs a model."""
