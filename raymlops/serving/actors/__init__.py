"""Actors shared by all replicas of an application: statistics, rate limits, the repository of a folder of models."""
