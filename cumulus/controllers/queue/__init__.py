"""The queue controller: writes what each Queue holds, borrows, has used, and who waits in it."""
