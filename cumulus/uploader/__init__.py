"""Checkpoints beyond their node (L2): copies what is whole on a node's disk to S3 or a shared directory, and back.

    python -I -m cumulus.uploader run PATH < configuration

`run` is a process of its own: it runs as the job's user, holds no lease, and goes on after the lease has ended until
what was saved is safe. `restore` puts the newest checkpoint that is whole into PATH.

    place        where checkpoints are kept: s3_place, directory_place
    catalog      which of them are committed there, and which is the newest
    upload       copies one checkpoint, commits it, prunes older ones
    here         what needs no place: the node has the newest
    restore      fetches and verifies one
    following    the loop over a directory; its state and status are in PATH/.uploader
    files        those on this node: lists, verifies, sends, receives and prunes them

Standard library, boto3 for s3://, and of Cumulus what a worker has: lib, checkpoint, blob.s3.
"""
