"""What an agent can do: read and change the files of its workspace, and run commands in a sandbox.

Whatever a model asks for is answered, never raised.
"""
