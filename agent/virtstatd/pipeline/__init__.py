"""From the sources to the sinks: fan-out, buffers, outlets."""
