"""Figures of a model: what it attends to, samples, answers and matches."""
