"""What a person sees of a compiled network: tables, pages, drawings."""
