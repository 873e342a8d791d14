"""The paper's ablations, and one of a modern recipe: definitions, trainings, scores, and the report."""
