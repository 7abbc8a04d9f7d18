"""Words only: contexts, prompts, replies, judges; no model."""
