"""Language models: instruction data, prompts, and what is measured on generated text."""
