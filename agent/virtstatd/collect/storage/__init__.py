"""Disks of all guests by the storage that they are on, and against their limits."""
