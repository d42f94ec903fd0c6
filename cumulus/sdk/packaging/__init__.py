"""What of a caller's code travels with a call: local modules as an archive, the call itself as a pickle."""
