"""Survival from whole slides with the patient's outcome as the only label: a Swin patch encoder and MIL pooling."""
