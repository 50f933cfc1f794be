"""Monitoring of applications: what was counted of an application is read, judged and shown."""
