"""Reports on a network for people: analyses, tables, pages and drawings."""
