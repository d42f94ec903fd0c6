"""Blobs: bytes that a user owns, by their sha256. The arguments, the code and the results of calls are kept so.

`base` has the protocol, `directory` keeps blobs in files, `opened` makes the store that the settings of a daemon name.
"""
