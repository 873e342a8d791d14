"""Weights in files: our folders, the published ones, and checkpoints converted from other projects."""
