"""A prognosis for one new patient: inputs as typed, recalibrated probability, text with its fact check, page."""
