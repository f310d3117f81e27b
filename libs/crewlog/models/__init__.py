"""Models: the provider that answers, what it costs, and the scripted model that stands in for it without a key."""
