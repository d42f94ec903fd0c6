"""What the service is asked and answers where an object's JSON is not enough: frozen data, so that it can travel.

A module a concern, each loaded by whom it concerns alone: commands start as fast as their own verb.
"""
