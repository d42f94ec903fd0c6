"""Python environments made from a list of requirements: built once on a node, kept, used by many calls.

`document` says what is wanted; a client makes it with `lock`. On the node `ensure` gives the interpreter: it runs
`builder` as a process of its own, which finds it in the `cache` or builds it. Standard library alone, Python 3.9 and
later.
"""
