"""How fast this machine does the work, beside what it could."""
