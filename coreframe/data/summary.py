"""What is in a file or folder, in words and numbers."""
