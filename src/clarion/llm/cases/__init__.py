"""Case reports in ophthalmology with diagnosis codes: schema, readers, a generator with known truth, the data set."""
