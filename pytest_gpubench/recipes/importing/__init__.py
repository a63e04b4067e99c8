"""Servers that others describe (command lines, official recipes, workloads, captured points) as
recipes: pure. What a recipe cannot say is named, never dropped in silence."""
