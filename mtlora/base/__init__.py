"""What every room stands on: errors, files, random streams, processes, signals, progress, the command line."""
