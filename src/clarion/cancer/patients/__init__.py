"""Patients with a slide, omics and survival: drawn with everything known, or a folder of the user's."""
