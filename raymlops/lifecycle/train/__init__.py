"""From a spec to a registered version: prepare, search, export, verify, record."""
