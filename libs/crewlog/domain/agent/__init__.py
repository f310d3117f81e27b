"""The log of one agent: what may happen in it, and what it comes to."""
