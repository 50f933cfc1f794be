"""What can be done with captured requests: list, show, trace, label, delete, and ask another version."""
