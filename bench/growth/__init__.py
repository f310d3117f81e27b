"""What a long log costs: `python -m bench.growth` (bench/README.md)."""
