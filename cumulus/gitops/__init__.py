"""A directory or git repository -> the objects that it says should exist -> what to create, change and delete."""
