"""The gateway on a host: routes, keys, certificates, usage."""
