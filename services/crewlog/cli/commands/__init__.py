"""The commands and their options. A command does nothing but name what does it, and imports that when it runs."""
