"""The paper's ablations: definitions, runs, scores, report."""
