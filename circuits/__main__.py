"""``python -m circuits`` is ``emotion-circuits``."""

from circuits.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
