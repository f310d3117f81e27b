"""The scheduler: owns runs, decides what is worked on, and by whom."""
