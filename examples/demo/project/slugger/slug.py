"""Slugs: lower case, letters and digits, words joined by one dash."""

import re
import unicodedata

LENGTH_MAX = 60


def slugify(title: str, length_max: int = LENGTH_MAX) -> str:
    """The slug of a title, at most `length_max` characters. It never begins or ends with a dash."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower())
    return slug[:length_max]
