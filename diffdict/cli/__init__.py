"""What runs before torch is imported: a command's words, its folder, and its mistakes."""
