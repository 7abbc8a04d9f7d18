"""The command line, ``emotion-circuits``."""
