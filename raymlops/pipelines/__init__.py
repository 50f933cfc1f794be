"""Whole verbs, composed of the engines: prepare, search, register, predict."""
