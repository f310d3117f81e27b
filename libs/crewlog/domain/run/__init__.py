"""The log of one run: its tasks, its money, its people, and what begins when something has ended."""
