"""Search by Optuna: what is searched, the study, its trials as the jobs of a sweep, and what came of it."""
