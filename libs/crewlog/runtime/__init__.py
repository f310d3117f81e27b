"""What every service runs on: serving and calling gRPC, refusals over the wire, tokens, logs, the clock."""
