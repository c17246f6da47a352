"""Renders results as tables, pages and pictures."""
