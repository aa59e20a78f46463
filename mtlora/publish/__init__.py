"""Publishing on the Hugging Face hub: the adapter of a run with a model card, the records of a study with a data-set card."""
