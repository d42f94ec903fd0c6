"""Parks leases: moves what their processes hold of a GPU into main memory, and back. Part of the monitor.

    ledger (what is wanted, each step) -> Parker -> Mover -> checkpoint_process -> the driver

Each step is in the ledger before it is done. Whoever comes next asks the driver how far each process is, and goes in
one direction alone: what is not wholly parked is brought back.

  steps           the steps of a lease, and the state that each is
  rows            the ledger's rows of them, and what was proven
  check           whether a lease can be parked: pure
  evidence        what is known of its processes
  memory          how much main memory is free
  driver          the driver's functions: checkpoint_process runs them, in a process of its own, and checkpoint_client
                  asks it
  mover           parks one lease, or brings it back
  parking_monitor that the monitor which runs can park
  parker          finds what is to be moved, and looks after what is parked
  self_test       parks a small program (test_program) of each framework: that alone proves it
"""
