"""Texts that models read: contexts, prompts and labelled texts; no model."""
