"""Why a prognosis: a patient's facts as a structured rationale in English or Korean, drafted, checked and reviewed."""
