"""Prints a table of numbers."""
