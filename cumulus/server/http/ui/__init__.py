"""The page for people, below `/ui`: rendered here, and brought up to date in the browser by a stream of what changed.

It is a client of the service as every transport is: it decides nothing about who may do what. `door` is what the API's
app knows of it; all else is loaded with the first request for a page.
"""
