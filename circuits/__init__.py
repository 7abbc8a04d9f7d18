"""emotion-circuits."""
