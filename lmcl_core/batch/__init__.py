"""Notebooks run headless, one or many."""
