"""The schema of every value in `conf/`, and the checks that types cannot express."""
