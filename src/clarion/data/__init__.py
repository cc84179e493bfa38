"""What every data set needs: samples, splits, integrity and leakage checks, fingerprints, cache."""
