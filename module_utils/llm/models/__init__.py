"""Models on a host: files, folders, the hub, and those that are made there."""
