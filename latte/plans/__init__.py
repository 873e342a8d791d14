"""Plans: what each evaluation of a sampling run computes, and what it reuses, decided before the run begins."""
