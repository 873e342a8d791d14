"""The paper's ablations: definitions, trainings, scores, and the report."""
