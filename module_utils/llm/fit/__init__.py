"""What a model takes of its GPUs, and which declarations engines are known not to bear."""
