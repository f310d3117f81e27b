"""The executor: performs tasks. Owns an agent while it holds the latest claim."""
