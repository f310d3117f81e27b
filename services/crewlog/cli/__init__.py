"""The `crewlog` command: starts the platform, and asks its gateway."""
