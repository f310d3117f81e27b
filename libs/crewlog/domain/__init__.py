"""The rules: one pure module per aggregate. No I/O, no clock, no randomness, no ids made here."""
