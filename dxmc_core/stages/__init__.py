"""The six stages: for each its configuration, its mappers and functions, and the artifact it publishes."""
