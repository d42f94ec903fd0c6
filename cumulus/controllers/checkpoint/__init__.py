"""The checkpoint controller: deletes what deleted jobs have left in the daemon's bucket."""
