"""Starts, watches and stops the processes of the platform: the embedded default, on loopback, in one data directory.

Begin with crewlog.cli.launcher.platform.
"""
