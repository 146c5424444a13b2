"""What runs leave on disk: records, the store, and files that are whole at every moment."""
