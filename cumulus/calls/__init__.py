"""What a client, the server and a node share about calls of Python functions: formats in clear, strictly checked.

A payload and a result are opaque bytes here: only the runner inside the lease and the client unpickle. Standard library
only, and for Python 3.9 on, since the runner carries these modules into any image.
"""
