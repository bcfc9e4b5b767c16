"""Any model becomes an `ImportedModel`."""
