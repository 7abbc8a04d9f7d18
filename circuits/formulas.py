"""Texts in tables that spreadsheets open: none of them starts a formula.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return,
whether or not the cell is quoted. Such a text gets an apostrophe in front, and so does one that
has apostrophes before the sign, so that reading takes away exactly what writing put there.
Numbers are no texts: a negative one stays as it is.
"""

import re

__all__ = ["guarded", "unguarded"]

# Some programs take the full-width forms for the same signs.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")


def guarded(text: str) -> str:
    """The text as a cell.

    >>> guarded("=1+1"), guarded("'=1+1"), guarded("'tis")
    ("'=1+1", "''=1+1", "'tis")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell that :func:`guarded` made.

    >>> unguarded("'=1+1"), unguarded("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
