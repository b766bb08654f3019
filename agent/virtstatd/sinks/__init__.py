"""The destinations that numbers can be sent to, one file each, loaded by entry point."""
