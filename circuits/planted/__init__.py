"""Models whose circuits are known, because their weights are set by hand."""
