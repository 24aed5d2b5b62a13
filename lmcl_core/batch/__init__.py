"""Notebooks run headless, one or many."""

from .parameters import check_parameters

__all__ = ["check_parameters"]
