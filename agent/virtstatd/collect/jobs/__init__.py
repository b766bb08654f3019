"""Jobs of domains: migrations, backups, saves, dumps, and jobs of their disks."""
