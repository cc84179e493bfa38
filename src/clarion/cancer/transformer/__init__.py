"""The tabular transformer: tokens of (value, Cox coefficient) pairs, survival heads, and its loaders."""
