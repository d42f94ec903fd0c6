"""What callers of the service ask and get where an object's JSON is not enough: frozen data that can be sent.

A module a concern, each loaded by whom it concerns alone: commands start as fast as their own verb.
"""
