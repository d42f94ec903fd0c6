"""The registry's entries, a module a kind: names, columns, and what else is said of it. `registry` lists them."""
