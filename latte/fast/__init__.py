"""Exact, faster ways to compute the networks of latte.models, attached from outside."""
