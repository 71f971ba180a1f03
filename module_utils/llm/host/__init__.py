"""Reading a host."""
