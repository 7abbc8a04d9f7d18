"""Patching between a clean and a corrupt run, and its estimates by gradients."""
