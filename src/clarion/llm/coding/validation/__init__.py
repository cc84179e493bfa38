"""What the coder is worth on data with known truth: the tables of experiments/eye_titles."""
