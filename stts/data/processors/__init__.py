"""Clip and messages -> what a model takes, a file for each family."""
