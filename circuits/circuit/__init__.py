"""Circuits: built from measurements, as plain values."""
