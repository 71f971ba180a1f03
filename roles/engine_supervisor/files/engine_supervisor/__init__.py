"""Watches engines by their progress, and brings back those that hang. See docs/supervision.md."""
