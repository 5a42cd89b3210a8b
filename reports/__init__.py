"""Records to tables to figures to HTML."""
