"""Gets a certificate by ACME, renews it, and hands it to the HAProxy that runs. See docs/security.md."""
