"""MTLoRA as a PEFT method, and the harness that reproduces its benchmarks (arXiv 2403.07440)."""
