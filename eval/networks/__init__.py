"""The networks that metrics compare videos by, and their published weights."""
