"""Who may do what: roles, the matrix of what each allows, the bindings that give them, and the check of every call."""
