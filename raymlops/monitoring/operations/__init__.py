"""Operational alarms of an application: pure functions from figures to alarms with their sentences. Gathers nothing and
tells nobody."""
