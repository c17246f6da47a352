"""What every program needs and no other room is needed for: cache, command line, results."""
