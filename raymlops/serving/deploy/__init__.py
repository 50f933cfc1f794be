"""Puts serving files on a cluster: deploy, serve here, roll back, restore, shift traffic."""
