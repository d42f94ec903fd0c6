"""Deletes blobs that no job names."""
