"""A transformer without emotions; the only layer that knows TransformerLens."""
