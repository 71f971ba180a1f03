"""What the llm_* modules know. Typed, no Ansible, on hosts standard library only: see docs/architecture.md for who imports whom."""

VERSION = "0.1.0"  # of this project; containers carry it as a label, and no engine restarts because of it
