"""Where compiled code runs: engines, libraries, boards; nothing here needs the compiler."""
