"""What clients got, for people and for machines."""
