"""Studies: one evaluation each, as the tables that its cells make, the checks of them, and a page."""
