"""Validation of each measurement on phantom eyes, where the truth is known: one module a part, measure() -> dict."""
