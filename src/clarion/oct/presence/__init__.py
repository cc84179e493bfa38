"""ERM presence per A-scan: from detector boxes (gaps filled), or from a network that looks along the flattened ILM."""
