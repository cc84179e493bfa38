"""Eight retinal surfaces per A-scan: network, smooth ordered surfaces, training data, and the bound on their error."""
