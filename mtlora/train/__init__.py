"""One run from its cell to its record, alone or in a cohort."""
