"""The embedded default: a small drawn world whose truth is known. See README.md beside this."""
