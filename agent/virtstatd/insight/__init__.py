"""What people want to know, made from batches: figures, findings, histories, documents."""
