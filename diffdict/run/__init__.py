"""A composed config becomes a run: validated, rewritten, built, looked through, closed."""
