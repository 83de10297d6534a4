"""The default method: what it works out before any head is trained (docs/METHODS.md)."""
