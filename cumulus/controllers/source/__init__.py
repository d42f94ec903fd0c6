"""The source controller: keeps the cluster equal to what directories and git repositories say."""
