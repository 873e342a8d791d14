"""The paper's ablations, and that of a modern recipe: definitions, trainings, scores, and the report."""
