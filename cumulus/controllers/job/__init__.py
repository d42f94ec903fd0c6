"""The job controller: gives a job its partitions, runs its attempts in them, and writes down what came of it.

The way of one reconcile, from top to bottom. Each module calls only those below it:

    controller   reads everything, has it planned, starts or stops workloads, writes the status if it changed
    results      what came of a call: its result becomes a blob of its submitter
    plan         the next step, in the order of a job's life: waiting -> an attempt begins -> it starts and runs
                 -> it is stopped -> it is over
    handover     the attempt that follows, queued before the last one's lease has ended
    parking      when a program is to wait in main memory, and when it is to come back
    ending       why a running attempt must end, and what its end comes to
    outcome      what that end means for the job: done, failed, or tried again, and when
    status       what a job's status says at each of these steps
    objects      what an attempt is made of: its partitions, and the workload of each replica
    view         what was read, and what can be told from it

All below `results` are pure: the view and its `now` in, frozen data out.
"""
