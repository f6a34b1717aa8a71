"""The database's history. `HEAD` is the newest revision, so that a process can see cheaply whether it is up to date."""

HEAD = "0001"
