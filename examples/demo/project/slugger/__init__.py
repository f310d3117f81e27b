"""Turns titles into the part of an address that people can read."""

from slugger.slug import slugify

__all__ = ["slugify"]
