"""What a run would do, and whether it may: decided on the controller, from the declaration and the facts of a host."""
