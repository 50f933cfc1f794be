"""Puts serving files on a cluster: deploy, serve locally, roll back, restore, change traffic shares."""
