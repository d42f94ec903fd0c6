"""What leases, promises and use were: recorded from the store's own log into a small SQLite file, and read back for the
timeline and reports.

    documents --facts--> recorder --schema--> history.db --spans, totals, series--> service

The file stands beside the store and is never in the way of its writes: the recorder reads what was committed, in its
own time. Whatever it holds can be lost without harm to any job.
"""
