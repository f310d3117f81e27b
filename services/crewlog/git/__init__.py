"""The git service: owns workspaces and changes, and is the only one that runs git."""
