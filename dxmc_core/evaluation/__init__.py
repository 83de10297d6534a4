"""Finished runs judged: against labels, names against classes, one run against another."""
