"""Actors that all replicas of an application share: statistics, rate limits, the repository of a folder of models."""
