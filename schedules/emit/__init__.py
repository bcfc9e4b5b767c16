"""The parts of loop nests: buffers, panels in memory, epilogues, vectors."""
