"""Cancer prognosis from multi-omics: cohorts, genome-wide Cox, tables bound to their fold, models beside baselines."""
