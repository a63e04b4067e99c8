"""YAML recipes to cases and server specs: schema, inheritance, expressions, expansion, ids,
sharing, selection, launch plan (`loading` leads through them)."""
