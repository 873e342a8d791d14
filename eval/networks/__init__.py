"""The networks that metrics compare videos with, and their published weights."""
