"""Pure placement: a snapshot of nodes, shares and the queue in, bindings and the reason for each refusal out."""
