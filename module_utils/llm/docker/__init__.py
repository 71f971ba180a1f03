"""Docker on a host: its API, its daemon's settings, its packages."""
