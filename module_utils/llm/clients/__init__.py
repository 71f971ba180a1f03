"""Programs of the people who use a service."""
