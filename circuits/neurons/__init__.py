"""Neurons selective for a class of texts: found, masked, steered, and held against random ones."""
