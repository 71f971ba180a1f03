"""What stands for an engine and for a host where real ones would make an enumeration impossible on two cores."""
