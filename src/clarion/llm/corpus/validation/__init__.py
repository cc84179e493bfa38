"""What the corpus tools are worth, measured where the truth is known."""
