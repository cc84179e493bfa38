"""Instruction data made from documents: questions asked of a generator, and only the valid ones kept."""
