"""The gateway: what clients talk to. It owns projects and keeps the views that clients read."""
