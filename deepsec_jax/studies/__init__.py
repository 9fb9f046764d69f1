"""Studies: one evaluation each, with its tables, checks and page."""
