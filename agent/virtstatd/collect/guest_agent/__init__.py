"""What guests say about themselves through their agent, on a read-write connection."""
