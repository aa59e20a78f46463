"""The foundation of all other packages: errors, files, random streams, processes, signals, progress, the command line."""
