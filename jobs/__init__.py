"""What Ray Jobs run: the same arguments as the command line, one JSON line as the result."""
