"""What the llm_* modules know. Typed, standard library only, no Ansible: see docs/architecture.md for the direction of imports."""
