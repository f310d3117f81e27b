"""Measurements, side by side in one run; bench/README.md says what each figure is."""
