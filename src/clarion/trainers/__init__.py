"""Trainers behind one protocol, one library each (see base.py)."""
