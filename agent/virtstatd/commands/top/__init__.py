"""`virtstatd top`: the host and its guests in a terminal."""
