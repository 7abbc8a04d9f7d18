"""One quantity per file: its record and the function that makes it."""
