"""Faster forms of the networks in latte.models, made from the same weights and attached to them from outside."""
