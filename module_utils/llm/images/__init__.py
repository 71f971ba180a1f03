"""Images: what they are made of and asked."""
