"""Evaluation of what the models make."""
