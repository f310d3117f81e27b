"""Traces: one per run, with ids derived from the run. Nothing is recorded unless an OTLP endpoint is configured."""
