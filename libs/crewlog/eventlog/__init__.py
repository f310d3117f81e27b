"""The event log: the port, its adapters, and the one function that runs every command."""
