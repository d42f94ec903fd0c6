"""S3 as Cumulus needs it: conditional puts, uploads in parts that go on after a crash, ranged reads into place.

Standard library and boto3, which is loaded when the first request is made. Blobs and the checkpoints' uploader use it.
"""
