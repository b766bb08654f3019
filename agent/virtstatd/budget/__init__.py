"""What polling may cost the host, and what it does cost."""
