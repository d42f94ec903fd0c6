"""What runs a call on its node, inside its lease: the one place there that unpickles.

`build` makes one read-only file of it, with cloudpickle and the formats of calls inside, which any Python from 3.9 on
runs: PYTHON runner.pyz CALL_DIRECTORY. From the start to the end:

    main      checks the Python, puts the local source on sys.path, runs the call or the session, writes the answer
    calling   one call: unpickles, calls, pickles what came of it
    failure   an exception as an outcome: as itself where it can be rebuilt, else as text
    relay     carries a connection from another machine to a session
    serving   a session: its socket, and calls one after another in this process

All but `build` run in the job: standard library, cloudpickle and `cumulus.calls` alone, and no newer Python than 3.9's.
"""
