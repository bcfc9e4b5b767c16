"""What loop nests are made of: buffers, panels in memory, epilogues, vectors."""
