"""NVIDIA GPUs of a host: what the tools say of them, and what is wrong."""
