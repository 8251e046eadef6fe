"""Names of classes in output files: each format has one function that makes a name harmless."""

from __future__ import annotations

from collections.abc import Sequence

from bebert_ray.data.formats.base import shown
from bebert_ray.errors import UserError
from bebert_ray.paths import is_utf8

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def csv_safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula: what begins like one is led by an apostrophe.

    Examples:
        >>> csv_safe("=cmd|' /C calc'!A0"), csv_safe("-1.5"), csv_safe("good")
        ("'=cmd|' /C calc'!A0", '-1.5', 'good')
    """
    if not text.startswith(_FORMULA) or _is_number(text):
        return text
    return "'" + text


def tsv_safe(text: str) -> str:
    r"""Text on one line without tabs: backslash, tab and line ends are written ``\\ \t \n \r``.

    Examples:
        >>> print(tsv_safe("very\tgood"))
        very\tgood
    """
    return text.translate(_ESCAPES)


def check_names(names: Sequence[str], where: str) -> None:
    """Check that names of classes can name columns.

    Raises:
        UserError: Two are the same, in CSV or TSV too, or one is not UTF-8 text.

    Examples:
        >>> check_names(["yes", "yes"], "model")
        Traceback (most recent call last):
        bebert_ray.errors.UserError: model: two classes are named 'yes'; give each its own name
    """
    seen: set[str] = set()
    for name in names:
        if not is_utf8(name):
            raise UserError(f"{where}: the name of a class, {shown(name)}, is not UTF-8 text")
        if name in seen:
            raise UserError(f"{where}: two classes are named {shown(name)}; give each its own name")
        seen.add(name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return not text.startswith(("\t", "\r"))
